/* One compiled regular expression: PCRE2 in byte mode, with limits, and JIT where the system allows it.
 *
 * A struct regex may be shared between threads; its first search makes the machine code, for most of a large rule set is
 * never searched for.  A struct regex_scratch (match data and JIT stack) belongs to one thread at a time.
 *
 * Any thread. */
#ifndef FORWARDER_REGEX_H
#define FORWARDER_REGEX_H

#include "base.h"

struct regex;
struct regex_scratch;

enum regex_outcome {
    REGEX_NO_MATCH,
    REGEX_MATCH,
    REGEX_LIMIT,   /* a limit was hit or the engine failed: the caller must deny */
};

#define REGEX_MESSAGE_SIZE 160

/* Why a pattern was refused. */
struct regex_error {
    size_t position;                  /* bytes into the pattern */
    char message[REGEX_MESSAGE_SIZE]; /* one line, terminated */
};

/* How the text of a pattern is to be read; all false is PCRE2 as it comes. */
struct regex_options {
    bool caseless;
    bool dotall;              /* '.' matches a newline too */
    bool line_begins_at_end;  /* (?m:^) matches behind a newline that ends the subject */
    bool no_auto_possess;     /* give up an optimization that goes wrong for /1+(?:x)?+1/ */
    bool by_range;            /* for regex_search_range */
};

/* The pattern is in PCRE2's own dialect and is copied into the compiled form.  ERR_INVALID fills *error; ERR_MEMORY
 * leaves it alone. */
enum err regex_compile(struct slice pattern, const struct regex_options *options, struct regex **out,
                       struct regex_error *error) MUST_CHECK;
void regex_destroy(struct regex *regex);
/* Search semantics (a match anywhere), as Python's re.search. */
enum regex_outcome regex_search(struct regex *regex, struct slice subject, struct regex_scratch *scratch);

/* How much backtracking is allowed at each place where a match may begin. */
enum regex_effort { REGEX_FULL, REGEX_BRIEF };
/* Only matches that begin at `first` or one of the next bytes, `count` places in all; the last place of a subject is its
 * end.  So that the time can be read in between; the pattern must have been compiled by_range. */
enum regex_outcome regex_search_range(struct regex *regex, struct slice subject, size_t first, size_t count,
                                      enum regex_effort effort, struct regex_scratch *scratch);

enum err regex_scratch_create(struct regex_scratch **out) MUST_CHECK;
void regex_scratch_destroy(struct regex_scratch *scratch);

/* "10.42 2022-12-11", static storage. */
const char *regex_library_version(void);

#endif
