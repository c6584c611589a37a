/* index_bench RULES MISSES HITS: our rule set, and beside it PCRE2's JIT code, rule by rule, on as many of the URLs as
 * half a second allows.  Prints one line of JSON. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <malloc.h>
#include <pcre2.h>

#include "bench.h"
#include "index.h"
#include "rules_state.h"

struct ours {
    struct rules *rules;
    struct rules_scratch *scratch;
};

struct theirs {
    pcre2_code **codes;
    size_t count;
    pcre2_match_data *data;
};

static long
match_ours(void *context, const char *url, size_t len)
{
    struct ours *ours = context;
    struct rules_hit hit = rules_match(ours->rules, (struct slice){url, len}, ours->scratch);
    return hit.outcome == RULES_NO_MATCH ? -1 : hit.outcome == RULES_LIMIT ? -2 : (long)hit.id->integer;
}

static long
match_theirs(void *context, const char *url, size_t len)
{
    struct theirs *theirs = context;
    for (size_t i = 0; i < theirs->count; i++) {
        if (pcre2_jit_match(theirs->codes[i], (PCRE2_SPTR)url, len, 0, 0, theirs->data, NULL) >= 0) {
            return (long)i;
        }
    }
    return -1;
}

static void
compile_theirs(struct theirs *theirs, const struct lines *lines)
{
    theirs->codes = bench_alloc(lines->count, sizeof(pcre2_code *));
    theirs->count = lines->count;
    theirs->data = pcre2_match_data_create(1, NULL);
    for (size_t i = 0; i < lines->count; i++) {
        int code;
        PCRE2_SIZE position;
        theirs->codes[i] = pcre2_compile((PCRE2_SPTR)lines->text[i], lines->len[i], 0, &code, &position, NULL);
        if (theirs->codes[i] == NULL || pcre2_jit_compile(theirs->codes[i], PCRE2_JIT_COMPLETE) != 0) {
            fprintf(stderr, "not compiled: %s\n", lines->text[i]);
            exit(1);
        }
    }
}

static struct wire_rules
list_of(const struct lines *lines)
{
    struct wire_rules list = {bench_alloc(lines->count, sizeof(struct wire_rule)), lines->count};
    for (size_t i = 0; i < lines->count; i++) {
        list.rules[i] = (struct wire_rule){
            .id = {.kind = WIRE_ID_INTEGER, .integer = (int64_t)i},
            .pattern = lines->text[i],
            .pattern_len = lines->len[i],
        };
    }
    return list;
}

/* Milliseconds. */
static double
time_build(const struct wire_rules *list, struct rules *previous, struct rules **out, struct rules_report *report)
{
    double since = bench_seconds();
    if (rules_build(list, previous, out, report)) {
        fprintf(stderr, "not built\n");
        exit(1);
    }
    return (bench_seconds() - since) * 1e3;
}

/* Every hundredth pattern is another one. */
static void
change_one_percent(struct wire_rules *list, int round)
{
    for (size_t i = 0; i < list->count; i += 100) {
        char *text = bench_alloc(list->rules[i].pattern_len + 20, 1);
        int len = sprintf(text, "%.*s|new%d-%zu", (int)list->rules[i].pattern_len, list->rules[i].pattern, round, i);
        list->rules[i].pattern = text;
        list->rules[i].pattern_len = (size_t)len;
    }
}

/* So many that PCRE2, rule by rule, takes a while but not a holiday. */
static size_t
sample_size(size_t rules)
{
    size_t size = 1000000 / (rules + 1);
    return size < 12 ? 12 : size > 1000 ? 1000 : size;
}

int
main(int argc, char **argv)
{
    enum { ROUNDS = 5 };
    double cold[ROUNDS], changed[ROUNDS], unchanged[ROUNDS];
    if (argc != 4) {
        fprintf(stderr, "usage: index_bench RULES MISSES HITS\n");
        return 2;
    }
    struct lines lines = bench_read_lines(argv[1]), misses = bench_read_lines(argv[2]), hits = bench_read_lines(argv[3]);
    struct wire_rules list = list_of(&lines);
    struct ours ours;
    struct theirs theirs;
    struct rules_report report;
    if (rules_scratch_create(&ours.scratch)) {
        return 1;
    }
    size_t memory = 0;
    for (int i = 0; i < ROUNDS; i++) {
        struct rules *first, *second, *third;
        struct wire_rules other = list_of(&lines);
        change_one_percent(&other, i);
        size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
        cold[i] = time_build(&list, NULL, &first, &report);
        rules_report_fini(&report);
        memory = mallinfo2().uordblks + mallinfo2().hblkhd - before;
        changed[i] = time_build(&other, first, &second, &report);
        rules_report_fini(&report);
        unchanged[i] = time_build(&other, second, &third, &report);
        rules_report_fini(&report);
        rules_unref(second);
        rules_unref(third);
        if (i < ROUNDS - 1) {
            rules_unref(first);
        }
        ours.rules = first;
    }
    const struct rules_report *kept = &ours.rules->report;
    bench_drop_hits(&misses, match_ours, &ours);
    long checks[4], sink;
    size_t sample = sample_size(lines.count);
    double miss = bench_time(match_ours, &ours, &misses, SIZE_MAX, 0.5, &sink);
    double hit = bench_time(match_ours, &ours, &hits, SIZE_MAX, 0.5, &sink);
    bench_time(match_ours, &ours, &misses, sample, 0.01, &checks[0]);
    bench_time(match_ours, &ours, &hits, sample, 0.01, &checks[1]);
    compile_theirs(&theirs, &lines);
    double loop_miss = bench_time(match_theirs, &theirs, &misses, sample, 0.5, &checks[2]);
    double loop_hit = bench_time(match_theirs, &theirs, &hits, sample, 0.5, &checks[3]);
    printf("{\"rules\": %zu, \"compiled\": %zu, \"always\": %zu, \"quarantined\": %zu, \"misses\": %zu, "
           "\"miss_ns\": %.0f, \"hit_ns\": %.0f, \"loop_miss_ns\": %.0f, \"loop_hit_ns\": %.0f, \"same\": %s, "
           "\"cold_ms\": %.2f, \"changed_ms\": %.2f, \"unchanged_ms\": %.3f, \"bytes\": %zu, \"index_bytes\": %zu}\n",
           lines.count, kept->compiled, kept->always, kept->quarantined, misses.count, miss, hit, loop_miss, loop_hit,
           checks[0] == checks[2] && checks[1] == checks[3] ? "true" : "false", bench_median(cold, ROUNDS),
           bench_median(changed, ROUNDS), bench_median(unchanged, ROUNDS), memory / lines.count,
           ours.rules->index != NULL ? index_size(ours.rules->index) : 0);
    return 0;
}
