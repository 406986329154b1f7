// What the packet pipeline needs from the machine: prefetch, monotonic clock.
#pragma once
#include <semaphore.h>
#include <stdint.h>
#include <time.h>

static inline void dsr_prefetch(const void *_Nonnull address) { __builtin_prefetch(address); }

static inline uint64_t dsr_monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}
