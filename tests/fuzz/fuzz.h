/* What the fuzz entries share.  An entry takes any bytes; what must hold of the answer is checked
 * with INVARIANT, which aborts, in every build. */
#ifndef FORWARDER_FUZZ_H
#define FORWARDER_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"

#define INVARIANT(condition)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes up to the next newline, or the rest; moves *rest behind it.  Text inputs keep a corpus
 * readable. */
static inline struct slice
fuzz_take_line(struct slice *rest)
{
    const char *end = rest->len > 0 ? memchr(rest->data, '\n', rest->len) : NULL;
    size_t len = end != NULL ? (size_t)(end - rest->data) : rest->len;
    size_t used = len + (end != NULL);
    struct slice line = {rest->data, len};
    rest->data += used;
    rest->len -= used;
    return line;
}

#endif
