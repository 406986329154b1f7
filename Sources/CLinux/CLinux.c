// Header-only module; this file gives the target something to compile.
#include "CLinux.h"
