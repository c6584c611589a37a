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
/* A search of one of them that takes longer makes a rule dangerous. */
#define PROBE_BUDGET_NS (250 * 1000)

#define PROBE_UNITS 8
#define PROBE_UNIT_MAX 48

struct probe {
    struct {
        uint8_t len;
        char text[PROBE_UNIT_MAX];
    } units[PROBE_UNITS];        /* each is repeated to make a subject */
    unsigned count, next;
    bool plain_http;             /* else they begin with https:// */
    char subject[PROBE_LENGTH];
};

void probe_init(struct probe *probe, const struct pattern *pattern, const struct literal_set *literals);
/* False when there is none left.  Valid until the next call. */
bool probe_next(struct probe *probe, struct slice *subject);

#endif
