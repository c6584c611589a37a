/* Subjects that make a pattern backtrack as much as it can, made from the pattern itself.
 *
 * The struct is the caller's memory and owns nothing.
 *
 * One thread at a time. */
#ifndef FORWARDER_PROBE_H
#define FORWARDER_PROBE_H

#include "literals.h"
#include "pattern.h"

#define PROBE_LENGTH 2000
/* A search of one of them that spends it (see budget.h: it may take twice that) makes a rule dangerous. */
#define PROBE_BUDGET_NS (100 * 1000)

#define PROBE_UNITS 8
#define PROBE_UNIT_MAX 48
#define PROBE_TAIL_MAX 32

struct probe {
    struct {
        uint8_t lead, len;
        char text[PROBE_UNIT_MAX];
    } units[PROBE_UNITS];        /* a subject each: some of `whole`, then the text until it is long enough, then `tail` */
    unsigned count, next;
    char whole[PROBE_UNIT_MAX];  /* what the pattern matches, roughly */
    bool names_scheme;           /* and it is a whole URL; else they begin with https:// */
    char tail[PROBE_TAIL_MAX + 1];
    unsigned tail_len;
    char subject[PROBE_LENGTH];
};

void probe_init(struct probe *probe, const struct pattern *pattern, const struct literal_set *literals);
/* False when there is none left.  Valid until the next call. */
bool probe_next(struct probe *probe, struct slice *subject);

#endif
