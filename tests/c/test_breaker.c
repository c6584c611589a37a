#include "breaker.h"

#include "harness.h"

static void
fail_times(struct breaker *breaker, int times, int64_t now_ms)
{
    for (int i = 0; i < times; i++) {
        breaker_failed(breaker, now_ms);
    }
}

static void
test_opens_after_failures_in_a_row(void)
{
    struct breaker breaker;
    breaker_init(&breaker);
    fail_times(&breaker, BREAKER_FAILURES - 1, 1000);
    CHECK(!breaker_is_open(&breaker));
    CHECK(breaker_allows(&breaker, 1000));
    breaker_failed(&breaker, 1000);
    CHECK(breaker_is_open(&breaker));
    CHECK(!breaker_allows(&breaker, 1000));
}

static void
test_a_success_starts_the_row_anew(void)
{
    struct breaker breaker;
    breaker_init(&breaker);
    fail_times(&breaker, BREAKER_FAILURES - 1, 1000);
    breaker_succeeded(&breaker);
    fail_times(&breaker, BREAKER_FAILURES - 1, 1000);
    CHECK(!breaker_is_open(&breaker));
}

static void
test_one_probe_a_second(void)
{
    struct breaker breaker;
    breaker_init(&breaker);
    fail_times(&breaker, BREAKER_FAILURES, 1000);
    int allowed = 0;
    for (int64_t now_ms = 1000; now_ms <= 1000 + 3 * BREAKER_PROBE_MS; now_ms++) {
        allowed += breaker_allows(&breaker, now_ms);
    }
    CHECK_INT(allowed, 3);
    CHECK(breaker_is_open(&breaker));
}

static void
test_a_success_closes_at_once(void)
{
    struct breaker breaker;
    breaker_init(&breaker);
    fail_times(&breaker, BREAKER_FAILURES, 1000);
    CHECK(breaker_allows(&breaker, 1000 + BREAKER_PROBE_MS));
    breaker_succeeded(&breaker);
    CHECK(!breaker_is_open(&breaker));
    CHECK(breaker_allows(&breaker, 1000 + BREAKER_PROBE_MS));
    CHECK(breaker_allows(&breaker, 1000 + BREAKER_PROBE_MS));
}

static void
test_late_failures_do_not_put_off_the_probe(void)
{
    struct breaker breaker;
    breaker_init(&breaker);
    fail_times(&breaker, BREAKER_FAILURES, 1000);
    for (int64_t now_ms = 1000; now_ms < 1000 + BREAKER_PROBE_MS; now_ms += 10) {
        breaker_failed(&breaker, now_ms);
    }
    CHECK(breaker_allows(&breaker, 1000 + BREAKER_PROBE_MS));
    breaker_failed(&breaker, 1000 + BREAKER_PROBE_MS + 500);
    CHECK(!breaker_allows(&breaker, 1000 + 2 * BREAKER_PROBE_MS - 1));
    CHECK(breaker_allows(&breaker, 1000 + 2 * BREAKER_PROBE_MS));
}

TESTS(TEST(opens_after_failures_in_a_row), TEST(a_success_starts_the_row_anew),
      TEST(one_probe_a_second), TEST(a_success_closes_at_once),
      TEST(late_failures_do_not_put_off_the_probe))
