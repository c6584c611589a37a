/* The words of a pattern: characters, escapes and character classes, read as Python's re reads
 * them.
 *
 * Owns nothing: the text and where an error goes are the caller's.
 *
 * One thread at a time. */
#ifndef FORWARDER_PATTERN_SCAN_H
#define FORWARDER_PATTERN_SCAN_H

#include "pattern.h"

struct scan {
    const unsigned char *text;
    size_t len, pos;
    struct regex_error *error;
};

/* Fills the error, on one line; ERR_INVALID always. */
enum err scan_fail(struct scan *scan, size_t position, const char *format, ...) MUST_CHECK
    PRINTF_LIKE(3, 4);

/* The next byte, or -1 at the end. */
static inline int
scan_peek(const struct scan *scan)
{
    return scan->pos < scan->len ? scan->text[scan->pos] : -1;
}

static inline bool
scan_match(struct scan *scan, char c)
{
    if (scan_peek(scan) != (unsigned char)c) {
        return false;
    }
    scan->pos++;
    return true;
}

/* Decodes and takes the next character, of which there must be one. */
uint32_t scan_char(struct scan *scan);
/* Takes everything up to the terminator and that; a backslash and what follows are one. */
enum err scan_skip_past(struct scan *scan, char terminator, bool *found) MUST_CHECK;
/* A decimal number, taken; PATTERN_UNLIMITED if it is that or more.  False if there is none. */
bool scan_number(struct scan *scan, uint32_t *number);

enum scan_escape_kind {
    SCAN_LITERAL,  /* value is a character */
    SCAN_CATEGORY, /* value is one of "dDsSwW" */
    SCAN_ANCHOR,   /* value is one of "AbBZ"; not within a class */
    SCAN_BACKREF,  /* value is a group; not within a class */
};

struct scan_escape {
    enum scan_escape_kind kind;
    uint32_t value;
};

/* Stands on the backslash. */
enum err scan_escape(struct scan *scan, bool in_class, struct scan_escape *out) MUST_CHECK;
#endif
