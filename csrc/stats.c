#include "stats.h"

static const struct {
    const char *name;
    const char *help;
} counters[STATS_COUNT] = {
#define STATS_ROW(name, help) [STATS_##name] = {#name, help},
    STATS_COUNTERS(STATS_ROW)
#undef STATS_ROW
};

void
stats_init(struct stats *stats)
{
    for (size_t i = 0; i < STATS_COUNT; i++) {
        atomic_init(&stats->counters[i], 0);
    }
}

/* Relaxed: a counter says how often, never that something else has happened before. */
void
stats_add(struct stats *stats, enum stats_counter counter, uint64_t amount)
{
    assert(counter < STATS_COUNT);
    atomic_fetch_add_explicit(&stats->counters[counter], amount, memory_order_relaxed);
}

uint64_t
stats_get(const struct stats *stats, enum stats_counter counter)
{
    assert(counter < STATS_COUNT);
    return atomic_load_explicit(&stats->counters[counter], memory_order_relaxed);
}

const char *
stats_name(enum stats_counter counter)
{
    assert(counter < STATS_COUNT);
    return counters[counter].name;
}

const char *
stats_help(enum stats_counter counter)
{
    assert(counter < STATS_COUNT);
    return counters[counter].help;
}
