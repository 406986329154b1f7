// Linux interfaces that Swift cannot import by itself. One header for each topic.
#pragma once
#include "pipeline.h"
#include "ports.h"
#include "sockets.h"
