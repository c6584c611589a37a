/* The necessary literals of a pattern: texts of which every match contains at least one, in either case.
 *
 * All structs are the caller's memory and own nothing.  A packed copy is plain bytes without pointers.
 *
 * Any thread. */
#ifndef FORWARDER_LITERALS_H
#define FORWARDER_LITERALS_H

#include "literal_set.h"
#include "pattern.h"

/* A match contains one text of `best` and, if it is not empty, one of `second`.  An empty `best` says that there are no
 * necessary literals: the pattern has to be tried on every subject. */
struct literals {
    struct literal_set best, second;
};

void literals_find(const struct pattern *pattern, struct literals *out);

/* Both sets as bytes: for each its count, then a length byte and the text of each. */
#define LITERALS_PACKED_MAX (2 * (1 + LITERALS_SET_MAX * (1 + LITERALS_TEXT_MAX)))
size_t literals_pack(const struct literals *literals, uint8_t out[LITERALS_PACKED_MAX]);

/* Walks a packed set: its count, after which *packed is at the first text... */
static inline unsigned
literals_take_count(const uint8_t **packed)
{
    return *(*packed)++;
}

/* ...and text by text. */
static inline struct slice
literals_take(const uint8_t **packed)
{
    struct slice text = {(const char *)*packed + 1, **packed};
    *packed += 1 + text.len;
    return text;
}

#endif
