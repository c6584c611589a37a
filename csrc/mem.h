/* The only allocator of the core: counts live blocks, and can be told to fail.
 *
 * Every block belongs to whoever called mem_alloc and friends and goes back through mem_free.
 * Third-party libraries that take an allocator (PCRE2, Jansson, SQLite, libcurl) keep their own.
 *
 * Any thread. */
#ifndef FORWARDER_MEM_H
#define FORWARDER_MEM_H

#include "base.h"

/* NULL when out of memory.  Zero-sized requests give a unique block. */
void *mem_alloc(size_t size) MUST_CHECK;
void *mem_zalloc(size_t size) MUST_CHECK;
/* count * size bytes, zeroed; NULL on overflow. */
void *mem_calloc(size_t count, size_t size) MUST_CHECK;
/* As realloc: on failure the old block is untouched and still the caller's. */
void *mem_realloc(void *block, size_t size) MUST_CHECK;
/* A terminated copy of len bytes. */
char *mem_copy(const char *data, size_t len) MUST_CHECK;
char *mem_string(const char *text) MUST_CHECK;
void mem_free(void *block);
/* Overwrites len bytes in a way the compiler cannot drop, then frees: for tokens and passwords. */
void mem_free_secret(void *block, size_t len);

/* Blocks allocated and not yet freed. */
size_t mem_live(void);

#ifdef FORWARDER_FAULTS
/* Tests only: the nth allocation from now fails (1 = the next), once.  0 switches it off. */
void mem_fail_at(unsigned long nth);
/* Allocations asked for since mem_fail_at. */
unsigned long mem_asked(void);
#endif

#endif
