/* Counters that any thread may bump and one may read.
 *
 * Static storage inside the engine; nothing to free.
 *
 * Any thread. */
#ifndef FORWARDER_STATS_H
#define FORWARDER_STATS_H

#include <stdatomic.h>

#include "base.h"

/* name, help.  Names become mitm_forwarder_<name>_total. */
#define STATS_COUNTERS(X)                                                        \
    X(requests, "requests that entered the gateway")                             \
    X(routed, "requests that were given an upstream proxy")                      \
    X(leased, "requests decided by an answer that the backend lets be used again") \
    X(blocked, "requests refused by a blacklist rule")                           \
    X(unauthorized, "requests without a usable user token")                      \
    X(overloaded, "requests refused for want of a permit")                       \
    X(failed, "requests refused because of the backend or an upstream proxy")    \
    X(retried, "requests that were given another upstream proxy after a failure") \
    X(rule_limits, "matches stopped by a limit, and denied")                     \
    X(refreshes, "rule sets put in place")                                       \
    X(refresh_failures, "rule lists that could not be fetched or read")          \
    X(rules_rejected, "rules that could not be compiled")                        \
    X(records, "activity records written to the spool")                          \
    X(records_delivered, "activity records the backend accepted")                \
    X(records_retried, "activity posts that must be repeated")                   \
    X(records_buried, "activity records the backend refused for good")           \
    X(records_refused, "records the spool could not take")                       \
    X(records_dropped, "records given up: the oldest of a full spool, or the rest of one in memory") \
    X(permits_leaked, "permits given back by the destructor")

enum stats_counter {
#define STATS_ENUM(name, help) STATS_##name,
    STATS_COUNTERS(STATS_ENUM)
#undef STATS_ENUM
    STATS_COUNT
};

struct stats {
    _Atomic uint64_t counters[STATS_COUNT];
};

void stats_init(struct stats *stats);
void stats_add(struct stats *stats, enum stats_counter counter, uint64_t amount);
uint64_t stats_get(const struct stats *stats, enum stats_counter counter);
const char *stats_name(enum stats_counter counter);
const char *stats_help(enum stats_counter counter);

#endif
