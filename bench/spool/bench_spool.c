/* What a record costs: `bench_spool DIRECTORY [SECONDS]`, the directory on the disk to be measured.
 *
 * The main thread appends 5,000 records a second, as the event loop would at that rate; another one
 * moves them into the database and deletes them, as the delivery does, and syncs a file of its own
 * every 100 ms besides.  Prints a table; the exit status is 1 where a goal of docs/reliability.md is
 * missed. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "mem.h"
#include "spool.h"

#define RATE 5000
#define BODY_BYTES 300
#define WINDOW 64

struct storing {
    struct spool *spool;
    const char *directory;
    atomic_bool stop;
    long moved, deleted;
    double cpu_seconds;
};

static double
seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void
must(enum err err, const char *what)
{
    if (err) {
        fprintf(stderr, "%s: %s\n", what, err_text(err));
        exit(2);
    }
}

/* As the delivery: half a window at a time, deleted together. */
static void
deliver_all(struct storing *storing)
{
    struct spool_record records[WINDOW];
    int64_t rows[WINDOW];
    size_t count;
    do {
        must(spool_read(storing->spool, 0, records, WINDOW, &count), "spool_read");
        for (size_t i = 0; i < count; i++) {
            rows[i] = records[i].row;
            mem_free(records[i].body);
        }
        if (count > 0) {
            must(spool_delete(storing->spool, rows, count), "spool_delete");
        }
        storing->deleted += (long)count;
    } while (count == WINDOW);
}

static void *
store_main(void *context)
{
    struct storing *storing = context;
    char path[4096];
    snprintf(path, sizeof path, "%s/beside", storing->directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    while (!atomic_load(&storing->stop)) {
        size_t moved;
        nanosleep(&(struct timespec){.tv_nsec = SPOOL_MOVE_MS * 1000000L}, NULL);
        must(spool_move(storing->spool, &moved), "spool_move");
        storing->moved += (long)moved;
        deliver_all(storing);
        if (fd < 0 || write(fd, path, sizeof path) < 0 || fsync(fd) != 0) {
            perror(path);
            exit(2);
        }
    }
    storing->cpu_seconds = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    close(fd);
    return NULL;
}

static int
compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static bool
report(const char *what, double got, double goal, const char *unit)
{
    printf("| %-46s | <= %6.1f %-2s | %8.2f %-2s | %s\n", what, goal, unit, got, unit,
           got <= goal ? "ok" : "MISSED");
    return got <= goal;
}

int
main(int argc, char **argv)
{
    char message[SPOOL_MESSAGE_SIZE], body[BODY_BYTES], key[SPOOL_KEY_LEN + 1];
    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [SECONDS]\n", argv[0]);
        return 2;
    }
    long count = RATE * (argc > 2 ? atol(argv[2]) : 10);
    double *us = calloc((size_t)count, sizeof *us);
    struct spool_config config = {.directory = argv[1], .max_bytes = (int64_t)1 << 30};
    struct storing storing = {.directory = argv[1]};
    if (us == NULL || spool_create(&config, &storing.spool, message)) {
        fprintf(stderr, "%s\n", us == NULL ? "out of memory" : message);
        return 2;
    }
    memset(body, 'x', sizeof body);
    pthread_t thread;
    if (pthread_create(&thread, NULL, store_main, &storing) != 0) {
        return 2;
    }
    double start = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    double paced = 0;
    for (long i = 0; i < count; i++) {
        double before = seconds_of(CLOCK_MONOTONIC);
        clock_uuid(key);
        must(spool_append(storing.spool, key, (struct slice){body, sizeof body}), "spool_append");
        us[i] = (seconds_of(CLOCK_MONOTONIC) - before) * 1e6;
        double wait = start + (double)(i + 1) / RATE - seconds_of(CLOCK_MONOTONIC);
        if (wait > 0.001) { /* in bursts of a few: a sleep a record would be measured as well */
            double asleep = seconds_of(CLOCK_THREAD_CPUTIME_ID);
            nanosleep(&(struct timespec){.tv_nsec = (long)(wait * 1e9)}, NULL);
            paced += seconds_of(CLOCK_THREAD_CPUTIME_ID) - asleep;
        }
    }
    double took = seconds_of(CLOCK_MONOTONIC) - start;
    cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu - paced;
    atomic_store(&storing.stop, true);
    pthread_join(thread, NULL);
    qsort(us, (size_t)count, sizeof *us, compare);
    printf("%ld records of %d bytes in %.1f s\n", count, BODY_BYTES, took);
    bool good = report("append, p50", us[count / 2], 8, "us");
    good = report("append, p99", us[count * 99 / 100], 50, "us") && good;
    good = report("CPU of the loop thread at 5,000 records/s", cpu / took * 100, 5, "%") && good;
    good = report("CPU of the spool thread, a record",
                  storing.cpu_seconds / (double)(storing.moved > 0 ? storing.moved : 1) * 1e6, 20,
                  "us") && good;
    printf("append, p99.9 %.1f us, longest %.0f us; %ld moved, %ld deleted\n",
           us[count * 999 / 1000], us[count - 1], storing.moved, storing.deleted);
    spool_destroy(storing.spool);
    free(us);
    return good ? 0 : 1;
}
