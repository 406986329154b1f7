// TCP_REPAIR, TCP_INFO, SIOCINQ and SIOCOUTQ, epoll.
#pragma once
