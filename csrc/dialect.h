/* From Python's dialect of regular expressions to PCRE2's, in byte mode.
 *
 * A struct dialect is the caller's memory (dialect_init, dialect_fini) and owns the parsed pattern
 * and the translated text, both of the last rule; it keeps its memory from one rule to the next.
 *
 * One thread at a time. */
#ifndef FORWARDER_DIALECT_H
#define FORWARDER_DIALECT_H

#include "buf.h"
#include "pattern.h"
#include "regex.h"

struct dialect {
    struct pattern pattern;
    struct buf text; /* for regex_compile, with the options */
    struct regex_options options;
};

void dialect_init(struct dialect *dialect);
void dialect_fini(struct dialect *dialect);
/* Parses and translates a rule; `flags` as for pattern_parse.  ERR_INVALID: *error has the position
 * in the rule, and why Python refuses it or PCRE2 cannot serve it. */
enum err dialect_translate(struct dialect *dialect, struct slice rule, unsigned flags,
                           struct regex_error *error) MUST_CHECK;
/* Compiles what was translated last.  ERR_INVALID as above: PCRE2 has limits of its own. */
enum err dialect_compile(struct dialect *dialect, struct regex **out,
                         struct regex_error *error) MUST_CHECK;

#endif
