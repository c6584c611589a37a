/* The blacklist: an immutable set of compiled rules, built in the background and swapped as a whole.
 *
 * A set is reference-counted; rules_build gives the caller one reference.  What was built from the same pattern before is
 * taken over from `previous`.
 *
 * rules_build: any one thread (compile).  rules_ref, rules_unref, rules_match: any thread; scratch: one thread at a time. */
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
    struct rules_reject *rejects;   /* owned; the first RULES_REJECTS_KEPT */
    size_t rejects_kept;
};

enum rules_outcome {
    RULES_NO_MATCH,
    RULES_MATCH,
    RULES_LIMIT,   /* a rule hit a limit: deny, and count it under its id */
};

struct rules_hit {
    enum rules_outcome outcome;
    const struct wire_id *id;   /* borrowed from the set; the first rule in list order */
    const char *pattern;        /* likewise */
};

enum err rules_build(const struct wire_rules *list, struct rules *previous, struct rules **out,
                     struct rules_report *report) MUST_CHECK;
void rules_report_fini(struct rules_report *report);
struct rules *rules_ref(struct rules *rules);
void rules_unref(struct rules *rules);
size_t rules_count(const struct rules *rules);

/* Search semantics over one subject, rules in list order. */
struct rules_hit rules_match(const struct rules *rules, struct slice subject, struct rules_scratch *scratch);

enum err rules_scratch_create(struct rules_scratch **out) MUST_CHECK;
void rules_scratch_destroy(struct rules_scratch *scratch);

#endif
