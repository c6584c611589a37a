#include "clock.h"

#include <math.h>
#include <sys/wait.h>

#include "harness.h"

static void
test_monotonic_clock_is_the_systems(void)
{
    int64_t before_ms = (int64_t)(harness_seconds() * 1000) - 1;
    int64_t now_ms = clock_now_ms();
    int64_t after_ms = (int64_t)(harness_seconds() * 1000) + 1;
    CHECK(before_ms <= now_ms && now_ms <= after_ms);
}

static void
test_monotonic_clock_can_be_set(void)
{
    clock_set_ms(12345);
    CHECK_INT(clock_now_ms(), 12345);
    clock_set_ms(0);
    CHECK_INT(clock_now_ms(), 0);
    clock_set_ms(-1);
    int64_t now_ms = clock_now_ms();
    CHECK(now_ms != 0 && now_ms != 12345);
    WAIT_UNTIL(clock_now_ms() > now_ms);
}

static void
test_wall_clock_is_the_systems(void)
{
    double before = (double)time(NULL) - 1;
    double now = clock_wall_seconds();
    CHECK(before <= now && now <= (double)time(NULL) + 1);
    /* It has fractions. */
    WAIT_UNTIL(fmod(clock_wall_seconds(), 1.0) != 0);
}

static void
test_random_covers_its_range(void)
{
    unsigned seen[6] = {0};
    for (int i = 0; i < 6000; i++) {
        uint64_t number = clock_random(5);
        REQUIRE(number <= 5);
        seen[number]++;
    }
    /* 1000 each is expected, with a deviation of 29. */
    for (size_t i = 0; i < COUNT_OF(seen); i++) {
        CHECK(seen[i] > 700 && seen[i] < 1300);
    }
}

static void
test_random_at_the_ends(void)
{
    uint64_t all = 0;
    CHECK_INT(clock_random(0), 0);
    for (int i = 0; i < 64; i++) {
        CHECK(clock_random(1) <= 1);
        all |= clock_random(UINT64_MAX);
    }
    CHECK(all == UINT64_MAX);
}

static void
test_uuid_has_the_form_of_version_4(void)
{
    char uuid[CLOCK_UUID_SIZE];
    for (int round = 0; round < 100; round++) {
        memset(uuid, 'x', sizeof uuid);
        clock_uuid(uuid);
        REQUIRE(memchr(uuid, '\0', sizeof uuid) == uuid + 36);
        for (int i = 0; i < 36; i++) {
            const char *allowed = i == 8 || i == 13 || i == 18 || i == 23 ? "-"
                                  : i == 14                               ? "4"
                                  : i == 19                               ? "89ab"
                                                                          : "0123456789abcdef";
            CHECK(strchr(allowed, uuid[i]) != NULL);
        }
    }
}

static void
test_uuids_differ(void)
{
    char a[CLOCK_UUID_SIZE], b[CLOCK_UUID_SIZE];
    clock_uuid(a);
    clock_uuid(b);
    CHECK(strcmp(a, b) != 0);
}

/* Prefork servers have had one key for two requests. */
static void
test_uuids_differ_after_fork(void)
{
    char own[CLOCK_UUID_SIZE], childs[CLOCK_UUID_SIZE] = "";
    int fds[2];
    REQUIRE(pipe(fds) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        clock_uuid(childs);
        _exit(write(fds[1], childs, sizeof childs) == sizeof childs ? 0 : 1);
    }
    clock_uuid(own);
    close(fds[1]);
    CHECK(read(fds[0], childs, sizeof childs) == sizeof childs);
    close(fds[0]);
    CHECK(waitpid(pid, NULL, 0) == pid);
    CHECK_INT(strlen(childs), 36);
    CHECK(strcmp(own, childs) != 0);
}

TESTS(TEST(monotonic_clock_is_the_systems), TEST(monotonic_clock_can_be_set),
      TEST(wall_clock_is_the_systems), TEST(random_covers_its_range), TEST(random_at_the_ends),
      TEST(uuid_has_the_form_of_version_4), TEST(uuids_differ), TEST(uuids_differ_after_fork))
