/* What every file of the core may use: error codes, attributes, small checked arithmetic.
 *
 * Owns nothing.
 *
 * Any thread. */
#ifndef FORWARDER_BASE_H
#define FORWARDER_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#define CONTAINER_OF(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Why a call failed.  ERR_OK is zero, so `if (err)` reads well. */
enum err {
    ERR_OK = 0,
    ERR_MEMORY,   /* an allocation failed */
    ERR_LIMIT,    /* a stated maximum would be exceeded */
    ERR_INVALID,  /* the input is not well-formed or not allowed */
    ERR_IO,       /* the operating system refused; errno tells */
    ERR_LIBRARY,  /* a third-party library failed for a reason of its own */
    ERR_MISSING,  /* what was asked for is not there */
    ERR_CLOSED,   /* the other side is shutting down */
};

/* A short lower-case word for logs ("out of memory"); static storage. */
const char *err_text(enum err err);

/* Borrowed bytes.  Not terminated; the owner outlives the call that takes it. */
struct slice {
    const char *data;
    size_t len;
};

#define SLICE_LITERAL(text) ((struct slice){(text), sizeof(text) - 1})

static inline bool
size_add(size_t a, size_t b, size_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

static inline bool
size_mul(size_t a, size_t b, size_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

#endif
