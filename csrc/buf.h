/* Growable bytes with a maximum.
 *
 * The struct is the caller's memory, the bytes inside belong to it until buf_take.  Zero bytes are
 * allocated before the first append.  The content is always followed by a NUL that is not counted.
 *
 * One thread at a time. */
#ifndef FORWARDER_BUF_H
#define FORWARDER_BUF_H

#include "base.h"

struct buf {
    char *data; /* NULL while empty */
    size_t len;
    size_t room; /* allocated, the NUL included */
    size_t max;  /* len never exceeds it */
};

void
buf_init(struct buf *buf, size_t max);
void
buf_fini(struct buf *buf);
/* As buf_fini, but overwrites the bytes first. */
void
buf_fini_secret(struct buf *buf);
void
buf_clear(struct buf *buf);
/* ERR_LIMIT past max, ERR_MEMORY; the content is unchanged then. */
enum err
buf_append(struct buf *buf, const void *data, size_t len) MUST_CHECK;
enum err
buf_append_slice(struct buf *buf, struct slice slice) MUST_CHECK;
enum err
buf_append_string(struct buf *buf, const char *text) MUST_CHECK;
enum err
buf_append_char(struct buf *buf, char c) MUST_CHECK;
enum err
buf_append_format(struct buf *buf, const char *format, ...) MUST_CHECK PRINTF_LIKE(2, 3);
/* The terminated content; "" while empty.  Borrowed until the next change. */
const char *
buf_string(const struct buf *buf);
struct slice
buf_slice(const struct buf *buf);
/* Gives the bytes away (free with mem_free) and leaves the buffer empty; NULL if it could not
 * terminate an empty one. */
char *
buf_take(struct buf *buf, size_t *len) MUST_CHECK;

#endif
