// Linux interfaces that Swift cannot import by itself. One header for each topic.
#pragma once
#include "pipeline.h"
#include "shortcut.h"
#include "ports.h"
#include "sockets.h"
