/* What the programs of this benchmark share: lines of a file, a clock, medians, and answers as lines of JSON. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct lines {
    char **text;
    uint32_t *len;
    size_t count;
};

/* Of this thread's own time: a busy machine counts less. */
static inline double
bench_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline void *
bench_alloc(size_t count, size_t size)
{
    void *block = calloc(count + 1, size);
    if (block == NULL) {
        perror("calloc");
        exit(1);
    }
    return block;
}

static inline struct lines
bench_read_lines(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    size_t size = (size_t)ftell(file);
    char *all = (char *)bench_alloc(size, 1);
    rewind(file);
    if (fread(all, 1, size, file) != size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    struct lines lines = {NULL, NULL, 0};
    for (size_t i = 0; i < size; i++) {
        lines.count += all[i] == '\n';
    }
    lines.text = (char **)bench_alloc(lines.count, sizeof *lines.text);
    lines.len = (uint32_t *)bench_alloc(lines.count, sizeof *lines.len);
    char *rest = all;
    for (size_t i = 0; i < lines.count; i++) {
        char *end = strchr(rest, '\n');
        *end = '\0';
        lines.text[i] = rest;
        lines.len[i] = (uint32_t)(end - rest);
        rest = end + 1;
    }
    return lines;
}

static inline int
bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double
bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, bench_compare);
    return values[count / 2];
}

/* The number of the first rule that matches, or -1. */
typedef long (*bench_match)(void *context, const char *url, size_t len);

static inline void
bench_drop_hits(struct lines *urls, bench_match match, void *context)
{
    size_t kept = 0;
    for (size_t i = 0; i < urls->count; i++) {
        if (match(context, urls->text[i], urls->len[i]) == -1) {
            urls->text[kept] = urls->text[i];
            urls->len[kept++] = urls->len[i];
        }
    }
    urls->count = kept;
}

/* Nanoseconds for each URL: the median of the passes that `seconds` allow, at least three; the first is not counted, so
 * that what is compiled lazily is compiled. */
static inline double
bench_time(bench_match match, void *context, const struct lines *urls, size_t count, double seconds, long *checksum)
{
    double passes[500], begin = bench_seconds();
    size_t done = 0;
    count = count < urls->count ? count : urls->count;
    for (int warm = 1; warm || done < 3 || (done < 500 && bench_seconds() - begin < seconds); warm = 0) {
        long sum = 0;
        double since = bench_seconds();
        for (size_t i = 0; i < count; i++) {
            sum += (match(context, urls->text[i], urls->len[i]) + 1) * (long)(i % 7 + 1);
        }
        *checksum = sum;
        if (!warm) {
            passes[done++] = (bench_seconds() - since) / (double)count * 1e9;
        }
        if (warm && bench_seconds() - since > seconds) {
            return (bench_seconds() - since) / (double)count * 1e9;
        }
    }
    return bench_median(passes, done);
}

#endif
