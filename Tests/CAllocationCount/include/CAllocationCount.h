#pragma once
#include <stdint.h>
// Allocations (malloc, calloc, realloc, aligned_alloc, posix_memalign) of the calling thread since it started.
uint64_t dsr_allocation_count(void);
