/* What a rule set is made of: rules_build.c fills it, rules.c reads it.
 *
 * A set owns one reference to each rule's matcher, the ids, the index and the report.
 *
 * Only the thread that builds a set writes to it, and only before anybody else has it; but for what is atomic. */
#ifndef FORWARDER_RULES_STATE_H
#define FORWARDER_RULES_STATE_H

#include "index.h"
#include "matcher.h"
#include "rules.h"

struct rule {
    struct matcher *matcher; /* one reference */
    struct wire_id id;
    uint32_t first;          /* the first rule with this matcher */
    atomic_bool counted;     /* has decided a search, and is in `counted` if that has room */
};

struct rules_counted {
    atomic_size_t count;     /* may exceed the room */
    _Atomic uint32_t numbers[RULES_COUNTED_MAX];   /* a rule's number + 1; 0: is about to be written */
};

struct rules {
    atomic_size_t refs;
    size_t count;
    struct rule *rules;      /* in list order */
    size_t mask;             /* slots - 1 */
    uint32_t *slots;         /* open addressing by pattern: first rule's number + 1; 0 is empty */
    uint32_t *always;        /* numbers of the rules that are not in the index, ascending */
    size_t always_count;
    struct index *index;     /* its items are rule numbers; NULL: none is in it */
    struct rules_counted *counted;
    uint64_t fingerprint;    /* of the list as it was given */
    struct rules_report report;
};

/* The rule has decided a search. */
void rules_note(const struct rules *rules, uint32_t number);

#endif
