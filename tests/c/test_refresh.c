#include "refresh.h"

#include "harness.h"

#define DRAWS 2000

struct range {
    int64_t low_ms, high_ms;
};

static struct range
waits(int64_t interval_ms, unsigned failures)
{
    struct range range = {INT64_MAX, 0};
    for (int i = 0; i < DRAWS; i++) {
        int64_t wait_ms = refresh_wait_ms(interval_ms, failures);
        range.low_ms = wait_ms < range.low_ms ? wait_ms : range.low_ms;
        range.high_ms = wait_ms > range.high_ms ? wait_ms : range.high_ms;
    }
    return range;
}

/* All of the range is used, but for a tenth of it at most at each end. */
static void
check_waits(int64_t interval_ms, unsigned failures, int64_t low_ms, int64_t high_ms)
{
    struct range range = waits(interval_ms, failures);
    int64_t slack_ms = (high_ms - low_ms) / 10;
    CHECK(range.low_ms >= low_ms && range.low_ms <= low_ms + slack_ms);
    CHECK(range.high_ms <= high_ms && range.high_ms >= high_ms - slack_ms);
}

static void
test_jitter(void)
{
    check_waits(60000, 0, 54000, 66000);
    check_waits(300000, 0, 270000, 330000);
}

static void
test_back_off(void)
{
    for (unsigned failures = 1; failures <= 6; failures++) {
        int64_t cap_ms = INT64_C(1000) << (failures - 1);
        check_waits(300000, failures, cap_ms / 2, cap_ms);
    }
}

/* Never longer than after a success, however long it lasts. */
static void
test_back_off_ends_at_the_interval(void)
{
    for (unsigned failures = 10; failures <= 1000; failures += 330) {
        struct range range = waits(60000, failures);
        CHECK(range.low_ms >= 27000 && range.high_ms <= 66000);
    }
    CHECK(waits(200, 1).high_ms <= 220);
}

TESTS(TEST(jitter), TEST(back_off), TEST(back_off_ends_at_the_interval))
