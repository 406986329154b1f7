// Packet sockets and TAP devices.
#pragma once
