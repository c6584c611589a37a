#include "stats.h"

#include <pthread.h>

#include "harness.h"

#define THREADS 4
#define ROUNDS 20000

static void
test_counts_from_zero(void)
{
    struct stats stats;
    memset(&stats, 0xff, sizeof stats);
    stats_init(&stats);
    for (int i = 0; i < STATS_COUNT; i++) {
        CHECK_INT(stats_get(&stats, (enum stats_counter)i), 0);
    }
    stats_add(&stats, STATS_routed, 2);
    stats_add(&stats, STATS_routed, 3);
    CHECK_INT(stats_get(&stats, STATS_routed), 5);
    CHECK_INT(stats_get(&stats, STATS_requests), 0);
    CHECK_INT(stats_get(&stats, STATS_blocked), 0);
}

/* Prometheus takes no other names, and two of one name would be one metric. */
static void
test_names_are_metric_names(void)
{
    for (int i = 0; i < STATS_COUNT; i++) {
        const char *name = stats_name((enum stats_counter)i);
        REQUIRE(name != NULL);
        CHECK(name[0] >= 'a' && name[0] <= 'z');
        CHECK_INT(strspn(name, "abcdefghijklmnopqrstuvwxyz_"), strlen(name));
        CHECK(stats_help((enum stats_counter)i)[0] != '\0');
        for (int j = 0; j < i; j++) {
            CHECK(strcmp(name, stats_name((enum stats_counter)j)) != 0);
        }
    }
    CHECK_STRING(stats_name(STATS_permits_leaked), "permits_leaked");
}

static void *
count_up(void *context)
{
    for (int i = 0; i < ROUNDS; i++) {
        stats_add(context, STATS_requests, 1);
    }
    return NULL;
}

static void
test_threads_lose_no_count(void)
{
    struct stats stats;
    pthread_t threads[THREADS];
    stats_init(&stats);
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, count_up, &stats) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_INT(stats_get(&stats, STATS_requests), THREADS * ROUNDS);
}

TESTS(TEST(counts_from_zero), TEST(names_are_metric_names), TEST(threads_lose_no_count))
