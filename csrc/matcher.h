/* One rule's pattern, ready to be searched for: compiled, with its necessary literals and what is known of its cost.
 *
 * A matcher is reference-counted, so that rule sets share what they have in common; all but its counters is immutable.  A
 * matcher_maker (parser, scratch and subjects to try patterns on) is the caller's memory.
 *
 * A matcher: any thread.  A maker, a scratch, a budget: one at a time. */
#ifndef FORWARDER_MATCHER_H
#define FORWARDER_MATCHER_H

#include <stdatomic.h>

#include "budget.h"
#include "dialect.h"

struct matcher {
    atomic_size_t refs;
    struct regex *regex;
    uint64_t hash;               /* matcher_hash of the pattern */
    atomic_uint_fast64_t hits;   /* searches that it decided, as a match or... */
    atomic_uint_fast64_t limits; /* ...by a limit */
    uint32_t len;
    bool always;                 /* no necessary literals: has to be tried on every subject */
    bool everything;             /* matches all sorts of URLs: hardly what was meant */
    bool suspect;                /* may backtrack a lot: searched for piecemeal, on a budget */
    bool quarantined;            /* did so when it was tried: to be searched for last and briefly */
    char bytes[];                /* the pattern, terminated; then the packed literals */
};

struct matcher_maker {
    struct dialect dialect;
    struct regex_scratch *scratch;
};

enum err matcher_maker_init(struct matcher_maker *maker) MUST_CHECK;
void matcher_maker_fini(struct matcher_maker *maker);

uint64_t matcher_hash(struct slice pattern);
/* ERR_INVALID fills *error. */
enum err matcher_create(struct matcher_maker *maker, struct slice pattern, struct matcher **out,
                        struct regex_error *error) MUST_CHECK;
struct matcher *matcher_ref(struct matcher *matcher);
void matcher_unref(struct matcher *matcher);

/* By literals_pack; of a matcher that is not `always`. */
static inline const uint8_t *
matcher_literals(const struct matcher *matcher)
{
    return (const uint8_t *)matcher->bytes + matcher->len + 1;
}

/* The budget is for suspect patterns only: the others cannot take long.  When it is spent the outcome is REGEX_LIMIT. */
enum regex_outcome matcher_search(struct matcher *matcher, struct slice subject, struct budget *budget,
                                  struct regex_scratch *scratch);

#endif
