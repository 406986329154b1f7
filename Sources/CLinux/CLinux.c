// The module's other headers are inline; this file gives them a translation unit.
#define _GNU_SOURCE
#include "CLinux.h"
