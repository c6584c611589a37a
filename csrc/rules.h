/* The blacklist: an immutable set of compiled rules, built in the background and swapped as a whole.
 *
 * A set is reference-counted; rules_build gives the caller one reference.  What was built from the same pattern before is
 * taken over from `previous`, its counters too; a list that is the same as before gives the same set again.
 *
 * rules_build: any one thread (compile).  The rest: any thread; scratch: one thread at a time. */
#ifndef FORWARDER_RULES_H
#define FORWARDER_RULES_H

#include "regex.h"
#include "wire.h"

struct rules;
struct rules_scratch;

/* A rule that could not be used. */
struct rules_reject {
    struct wire_id id;           /* owned by the report */
    struct regex_error error;
};

#define RULES_REJECTS_KEPT 100

/* What became of a list. */
struct rules_report {
    size_t given, compiled, rejected;
    size_t duplicates;   /* have the pattern of a rule before them, which is the one that is found */
    size_t always;       /* have no text to look them up by: each costs some 0.1 us for every URL */
    size_t everything;   /* match all sorts of URLs; some of `always` */
    size_t quarantined;  /* backtrack for too long: tried last, and given little time */
    struct rules_reject *rejects;   /* owned; the first RULES_REJECTS_KEPT */
    size_t rejects_kept;
};

enum rules_outcome {
    RULES_NO_MATCH,
    RULES_MATCH,
    RULES_LIMIT,   /* a rule hit a limit: deny, and count it under its id */
};

/* Both pointers are borrowed from the set; they are NULL where nothing matched, and where the URL was made to hit the
 * index over and over, so that the limit is nobody's. */
struct rules_hit {
    enum rules_outcome outcome;
    const struct wire_id *id;   /* the first rule in list order; a quarantined one only if no other matches */
    const char *pattern;
};

enum err rules_build(const struct wire_rules *list, struct rules *previous, struct rules **out,
                     struct rules_report *report) MUST_CHECK;
void rules_report_fini(struct rules_report *report);
struct rules *rules_ref(struct rules *rules);
void rules_unref(struct rules *rules);
size_t rules_count(const struct rules *rules);
/* Borrowed; without the rejects nothing in it ever changes. */
const struct rules_report *rules_summary(const struct rules *rules);

/* One rule, by its place among those that were compiled. */
struct rules_info {
    const struct wire_id *id;   /* borrowed, as the pattern is */
    const char *pattern;
    uint64_t hits, limits;      /* searches decided, by a match or by a limit, since the pattern first came */
    size_t first;               /* the first rule with this pattern: this one, unless it is a duplicate */
    bool always, everything, quarantined;   /* see struct rules_report */
};

void rules_get(const struct rules *rules, size_t at, struct rules_info *out);

/* Rules that have decided a search are noted as they do, so that nobody has to look for them among 100,000; so many. */
#define RULES_COUNTED_MAX 1000

/* How many there are, also beyond those that were noted. */
size_t rules_counted(const struct rules *rules);
/* The places of those that were noted, for rules_get; says how many. */
size_t rules_counted_places(const struct rules *rules, size_t places[RULES_COUNTED_MAX]);

/* Search semantics over one subject, rules in list order. */
struct rules_hit rules_match(const struct rules *rules, struct slice subject, struct rules_scratch *scratch);

enum err rules_scratch_create(struct rules_scratch **out) MUST_CHECK;
void rules_scratch_destroy(struct rules_scratch *scratch);

#endif
