/* What every tests/c/test_*.c is made of: one plain program, one module, no order between tests.
 *
 *     static void
 *     test_append(void)
 *     {
 *         CLEANUP(buf_fini) struct buf buf;      // buf_fini(&buf) runs however the test ends,
 *         buf_init(&buf, 10);                    // so make it valid before the first TRY
 *         TRY(buf_append_string(&buf, "ab"));    // ends the test unless ERR_OK
 *         CHECK(buf.len == 2);                   // notes a failure and goes on
 *     }
 *     TESTS(TEST(append), TEST(limit), TEST_WITHOUT_CHAOS(uses_faults_itself))
 *
 * Clean-ups run in reverse order of declaration: declare what a list or a mailbox points to first.
 *
 * There are also REQUIRE (a CHECK that ends the test), CHECK_INT and CHECK_STRING (print both
 * sides), WAIT_UNTIL (a condition with a deadline, never a sleep) and TEMP_DIR.  TRY, REQUIRE and
 * WAIT_UNTIL belong into functions that return void; helpers return enum err and are tried.
 *
 * `test_x [--torture] [NAME]`.  With --torture every test runs again and again while the 1st, 2nd,
 * 3rd... allocation fails, then the same with file calls (EIO, and ENOSPC, which leaves half of a
 * write), until a run no longer gets that far.  Once the fault has struck, CHECK and REQUIRE count
 * no more, and TRY accepts the error that belongs to the fault (ERR_MEMORY; ERR_IO or ERR_LIBRARY).
 * Crashes, sanitizers and leaks always count: after each run mem_live() and the number of open
 * descriptors must be what they were. */
#ifndef FORWARDER_HARNESS_H
#define FORWARDER_HARNESS_H

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base.h"
#include "io.h"
#include "mem.h"

#define HARNESS_UNUSED __attribute__((unused))
#define CLEANUP(function) __attribute__((cleanup(function)))

#define WAIT_SECONDS 20.0
/* After a fault, what a test waits for may never come. */
#define WAIT_SECONDS_AFTER_FAULT 0.2

enum harness_fault { FAULT_NONE, FAULT_MEMORY, FAULT_IO };

struct test {
    const char *name;
    void (*run)(void);
    bool torture;
};

static struct {
    atomic_uint failures;       /* in this run; threads of a test may CHECK as well */
    enum harness_fault fault;
    unsigned long nth;
} harness;

HARNESS_UNUSED static bool
harness_struck(void)
{
    switch (harness.fault) {
    case FAULT_MEMORY:
        return mem_asked() >= harness.nth;
    case FAULT_IO:
        return io_asked() >= harness.nth;
    case FAULT_NONE:
        break;
    }
    return false;
}

HARNESS_UNUSED PRINTF_LIKE(3, 4) static void
harness_fail(const char *file, int line, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    printf("%s:%d: %s\n", file, line, text);
    harness.failures++;
}

HARNESS_UNUSED static bool
harness_check(bool passed, const char *file, int line, const char *what)
{
    if (!passed && !harness_struck()) {
        harness_fail(file, line, "not so: %s", what);
    }
    return passed;
}

HARNESS_UNUSED static void
harness_check_int(long long got, long long wanted, const char *file, int line, const char *what)
{
    if (got != wanted && !harness_struck()) {
        harness_fail(file, line, "%s is %lld, not %lld", what, got, wanted);
    }
}

HARNESS_UNUSED static void
harness_check_string(const char *got, const char *wanted, const char *file, int line,
                     const char *what)
{
    if ((got == NULL || strcmp(got, wanted) != 0) && !harness_struck()) {
        harness_fail(file, line, "%s is \"%s\", not \"%s\"", what, got == NULL ? "(null)" : got,
                     wanted);
    }
}

HARNESS_UNUSED static bool
harness_try(enum err err, const char *file, int line, const char *what)
{
    bool of_memory = harness.fault == FAULT_MEMORY && err == ERR_MEMORY;
    bool of_io = harness.fault == FAULT_IO && (err == ERR_IO || err == ERR_LIBRARY);
    if (err && !(harness_struck() && (of_memory || of_io))) {
        harness_fail(file, line, "%s: %s (errno %d)", what, err_text(err), errno);
    }
    return err == ERR_OK;
}

#define CHECK(condition) ((void)harness_check((condition), __FILE__, __LINE__, #condition))
#define CHECK_INT(got, wanted) harness_check_int((got), (wanted), __FILE__, __LINE__, #got)
#define CHECK_STRING(got, wanted) harness_check_string((got), (wanted), __FILE__, __LINE__, #got)
#define REQUIRE(condition)                                              \
    do {                                                                \
        if (!harness_check((condition), __FILE__, __LINE__, #condition)) { \
            return;                                                     \
        }                                                               \
    } while (0)
#define TRY(call)                                                       \
    do {                                                                \
        if (!harness_try((call), __FILE__, __LINE__, #call)) {          \
            return;                                                     \
        }                                                               \
    } while (0)

HARNESS_UNUSED static double
harness_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Not a CHECK yet: true while the condition deserves another look. */
HARNESS_UNUSED static bool
harness_may_wait(double since)
{
    double waited = harness_seconds() - since;
    if (waited > (harness_struck() ? WAIT_SECONDS_AFTER_FAULT : WAIT_SECONDS)) {
        return false;
    }
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return true;
}

/* Ends the test when the condition does not come true in time. */
#define WAIT_UNTIL(condition)                                               \
    do {                                                                    \
        double wait_since = harness_seconds();                              \
        while (!(condition)) {                                              \
            if (!harness_may_wait(wait_since)) {                            \
                (void)harness_check(false, __FILE__, __LINE__, #condition); \
                return;                                                     \
            }                                                               \
        }                                                                   \
    } while (0)

struct temp_dir {
    char path[64];
};

HARNESS_UNUSED static struct temp_dir
harness_make_temp_dir(void)
{
    struct temp_dir dir = {"/tmp/forwarder-test-XXXXXX"};
    if (mkdtemp(dir.path) == NULL) {
        perror("mkdtemp");
        abort();
    }
    return dir;
}

HARNESS_UNUSED static int
harness_remove_entry(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

HARNESS_UNUSED static void
harness_remove_temp_dir(struct temp_dir *dir)
{
    if (nftw(dir->path, harness_remove_entry, 8, FTW_DEPTH | FTW_PHYS) != 0) {
        harness_fail(__FILE__, __LINE__, "%s could not be removed: %s", dir->path, strerror(errno));
    }
}

/* A directory of the test's own, dir.path, removed with all in it when the test ends. */
#define TEMP_DIR(dir) CLEANUP(harness_remove_temp_dir) struct temp_dir dir = harness_make_temp_dir()

static int
harness_open_descriptors(void)
{
    DIR *listing = opendir("/dev/fd");
    if (listing == NULL) {
        perror("/dev/fd");
        abort();
    }
    int count = 0;
    while (readdir(listing) != NULL) {
        count++;
    }
    closedir(listing);
    return count;
}

/* One run of one test; true when it passed.  *struck: the fault was reached. */
static bool
harness_run(const struct test *test, enum harness_fault fault, unsigned long nth, int error,
            bool *struck)
{
    size_t live = mem_live();
    int descriptors = harness_open_descriptors();
    harness.failures = 0;
    harness.fault = fault;
    harness.nth = nth;
    mem_fail_at(fault == FAULT_MEMORY ? nth : 0);
    io_fail_at(fault == FAULT_IO ? nth : 0, error);
    test->run();
    *struck = harness_struck();
    mem_fail_at(0);
    io_fail_at(0, 0);
    harness.fault = FAULT_NONE;
    if (mem_live() != live) {
        harness_fail(test->name, 0, "%zu blocks before, %zu after", live, mem_live());
    }
    if (harness_open_descriptors() != descriptors) {
        harness_fail(test->name, 0, "%d descriptors before, %d after", descriptors,
                     harness_open_descriptors());
    }
    return harness.failures == 0;
}

static bool
harness_torture(const struct test *test)
{
    static const struct {
        enum harness_fault fault;
        int error;
        const char *what;
    } rounds[] = {
        {FAULT_MEMORY, 0, "allocation"},
        {FAULT_IO, EIO, "file call (EIO)"},
        {FAULT_IO, ENOSPC, "file call (ENOSPC)"},
    };
    for (size_t i = 0; i < COUNT_OF(rounds); i++) {
        bool struck = true;
        for (unsigned long nth = 1; struck; nth++) {
            if (!harness_run(test, rounds[i].fault, nth, rounds[i].error, &struck)) {
                printf("%s: with %s number %lu failing\n", test->name, rounds[i].what, nth);
                return false;
            }
        }
    }
    return true;
}

static int
harness_main(const struct test *tests, size_t count, int argc, char **argv)
{
    bool torture = argc > 1 && strcmp(argv[1], "--torture") == 0;
    const char *only = argc > 1 + torture ? argv[1 + torture] : NULL;
    unsigned passed = 0, failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < count; i++) {
        if ((only != NULL && strcmp(only, tests[i].name) != 0) || (torture && !tests[i].torture)) {
            continue;
        }
        bool struck;
        bool good = torture ? harness_torture(&tests[i])
                          : harness_run(&tests[i], FAULT_NONE, 0, 0, &struck);
        if (good) {
            passed++;
        }
        else {
            printf("FAILED %s\n", tests[i].name);
            failed++;
        }
    }
    if (only != NULL && passed + failed == 0) {
        printf("no such test: %s\n", only);
        failed++;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed > 0;
}

#define TEST(name) {#name, test_##name, true}
/* For tests that call mem_fail_at or io_fail_at themselves. */
#define TEST_WITHOUT_CHAOS(name) {#name, test_##name, false}
#define TESTS(...)                                                          \
    int                                                                     \
    main(int argc, char **argv)                                             \
    {                                                                       \
        static const struct test tests[] = {__VA_ARGS__};                   \
        return harness_main(tests, COUNT_OF(tests), argc, argv);            \
    }

#endif
