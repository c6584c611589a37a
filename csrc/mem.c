#include "mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_size_t live;

#ifdef FORWARDER_FAULTS
static atomic_ulong asked;
static atomic_ulong fail_at;

void
mem_fail_at(unsigned long nth)
{
    asked = 0;
    fail_at = nth;
}

unsigned long
mem_asked(void)
{
    return asked;
}

static bool
fault(void)
{
    return atomic_fetch_add(&asked, 1) + 1 == fail_at;
}
#else
static inline bool
fault(void)
{
    return false;
}
#endif

/* malloc(0) may be NULL without being a failure; asking for a byte makes NULL mean one thing. */
static size_t
at_least_one(size_t size)
{
    return size == 0 ? 1 : size;
}

static void *
counted(void *block)
{
    if (block != NULL) {
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    }
    return block;
}

void *
mem_alloc(size_t size)
{
    return fault() ? NULL : counted(malloc(at_least_one(size)));
}

void *
mem_zalloc(size_t size)
{
    return fault() ? NULL : counted(calloc(1, at_least_one(size)));
}

void *
mem_calloc(size_t count, size_t size)
{
    size_t total;
    return size_mul(count, size, &total) ? mem_zalloc(total) : NULL;
}

void *
mem_realloc(void *block, size_t size)
{
    if (block == NULL) {
        return mem_alloc(size);
    }
    return fault() ? NULL : realloc(block, at_least_one(size));
}

char *
mem_copy(const char *data, size_t len)
{
    size_t size;
    char *copy = size_add(len, 1, &size) ? mem_alloc(size) : NULL;
    if (copy == NULL) {
        return NULL;
    }
    if (len > 0) {
        memcpy(copy, data, len);
    }
    copy[len] = '\0';
    return copy;
}

char *
mem_string(const char *text)
{
    return mem_copy(text, strlen(text));
}

void
mem_free(void *block)
{
    if (block == NULL) {
        return;
    }
    size_t before = atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    assert(before > 0);
    (void)before;
    free(block);
}

void
mem_free_secret(void *block, size_t len)
{
    if (block == NULL) {
        return;
    }
    memset(block, 0, len);
    /* The compiler must think that somebody reads the zeros.  macOS has no explicit_bzero(3). */
    __asm__ __volatile__("" : : "r"(block) : "memory");
    mem_free(block);
}

size_t
mem_live(void)
{
    return atomic_load_explicit(&live, memory_order_relaxed);
}
