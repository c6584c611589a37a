#include "activity.h"

#include <limits.h>

#include "harness.h"

/* DESIGN.md §6, status by status. */
static enum activity_fate
fate_by_table(int status)
{
    static const struct {
        int from, to;
        enum activity_fate fate;
    } table[] = {
        {0, 199, ACTIVITY_RETRY},   {200, 299, ACTIVITY_DELIVERED}, {300, 399, ACTIVITY_RETRY},
        {400, 400, ACTIVITY_BURY},  {401, 401, ACTIVITY_PAUSE},     {402, 402, ACTIVITY_BURY},
        {403, 405, ACTIVITY_PAUSE}, {406, 407, ACTIVITY_BURY},      {408, 409, ACTIVITY_RETRY},
        {410, 424, ACTIVITY_BURY},  {425, 425, ACTIVITY_RETRY},     {426, 428, ACTIVITY_BURY},
        {429, 429, ACTIVITY_RETRY}, {430, 499, ACTIVITY_BURY},      {500, INT_MAX, ACTIVITY_RETRY},
    };
    size_t row = 0;
    while (status > table[row].to) {
        row++;
    }
    return table[row].fate;
}

static void
test_fate_of_every_status(void)
{
    for (int status = 0; status < 1000; status++) {
        if (activity_fate(status) != fate_by_table(status)) {
            harness_fail(__FILE__, __LINE__, "%d has fate %d", status, (int)activity_fate(status));
        }
    }
}

static void
test_pauses_have_hints(void)
{
    CHECK(strstr(activity_pause_hint(401), "SYSTEM_TOKEN") != NULL);
    CHECK(strstr(activity_pause_hint(403), "SYSTEM_TOKEN") != NULL);
    CHECK(strstr(activity_pause_hint(404), "FASTAPI_ACTIVITY_ENDPOINT") != NULL);
    CHECK(strstr(activity_pause_hint(405), "FASTAPI_ACTIVITY_ENDPOINT") != NULL);
    CHECK(activity_pause_hint(418) != NULL);
}

static int64_t
longest_of_many_ms(unsigned attempt)
{
    int64_t longest_ms = 0;
    for (int i = 0; i < 500; i++) {
        int64_t chosen_ms = activity_backoff_ms(attempt, -1);
        CHECK(chosen_ms >= 0);
        longest_ms = chosen_ms > longest_ms ? chosen_ms : longest_ms;
    }
    return longest_ms;
}

static void
test_backoff_doubles_up_to_the_cap(void)
{
    static const struct {
        unsigned attempt;
        int64_t limit_ms;
    } table[] = {{0, 500},   {1, 1000},  {2, 2000},  {3, 4000},  {4, 4000},
                 {31, 4000}, {32, 4000}, {63, 4000}, {64, 4000}, {UINT_MAX, 4000}};
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        int64_t longest_ms = longest_of_many_ms(table[i].attempt);
        CHECK(longest_ms <= table[i].limit_ms);
        CHECK(longest_ms > table[i].limit_ms / 2);
    }
}

/* Full jitter: short waits are as likely as long ones. */
static void
test_backoff_uses_its_whole_range(void)
{
    int low = 0;
    for (int i = 0; i < 1000; i++) {
        low += activity_backoff_ms(6, -1) < ACTIVITY_BACKOFF_CAP_MS / 2;
    }
    CHECK(low > 400 && low < 600);
}

static void
test_backoff_obeys_retry_after(void)
{
    for (int i = 0; i < 100; i++) {
        CHECK_INT(activity_backoff_ms(3, 60000), 60000);
        CHECK(activity_backoff_ms(3, 2000) >= 2000);
        CHECK(activity_backoff_ms(3, 2000) <= 4000);
        CHECK(activity_backoff_ms(3, -1) <= 4000);
    }
}

TESTS(TEST(fate_of_every_status), TEST(pauses_have_hints), TEST(backoff_doubles_up_to_the_cap),
      TEST(backoff_uses_its_whole_range), TEST(backoff_obeys_retry_after))
