/* hs_bench RULES MISSES HITS: our literals in Hyperscan's literal matcher, PCRE2 for what it finds.  Prints JSON. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <hs/hs.h>
#include <pcre2.h>

#include "bench.h"
#include "literals.h"

#define FOUND_MAX 65536

struct matcher_set {
    hs_database_t *database;
    hs_scratch_t *scratch;
    pcre2_code **codes;
    pcre2_match_data *data;
    uint32_t *rule_of; /* by literal */
    uint32_t *always;
    size_t literal_count, always_count;
    uint32_t found[FOUND_MAX];
    size_t found_count;
};

static int
add_found(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *context)
{
    struct matcher_set *set = context;
    (void)from, (void)to, (void)flags;
    if (set->found_count < FOUND_MAX) {
        set->found[set->found_count++] = set->rule_of[id];
    }
    return 0;
}

static int
compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static long
match(void *context, const char *url, size_t len)
{
    struct matcher_set *set = context;
    size_t found = 0, always = 0;
    set->found_count = 0;
    if (set->database != NULL) {
        hs_scan(set->database, url, (unsigned)len, 0, set->scratch, add_found, set);
    }
    qsort(set->found, set->found_count, sizeof set->found[0], compare_numbers);
    while (found < set->found_count || always < set->always_count) {
        bool take_found = always == set->always_count
                          || (found < set->found_count && set->found[found] < set->always[always]);
        uint32_t number = take_found ? set->found[found++] : set->always[always++];
        if (pcre2_jit_match(set->codes[number], (PCRE2_SPTR)url, len, 0, 0, set->data, NULL) >= 0) {
            return (long)number;
        }
    }
    return -1;
}

static void
build(struct matcher_set *set, const struct lines *rules)
{
    size_t room = rules->count * LITERALS_SET_MAX;
    char **texts = bench_alloc(room, sizeof(char *));
    size_t *lens = bench_alloc(room, sizeof(size_t));
    unsigned *ids = bench_alloc(room, sizeof(unsigned)), *flags = bench_alloc(room, sizeof(unsigned));
    struct pattern pattern;
    pattern_init(&pattern);
    set->rule_of = bench_alloc(room, sizeof(uint32_t));
    set->always = bench_alloc(rules->count, sizeof(uint32_t));
    for (size_t i = 0; i < rules->count; i++) {
        struct regex_error error;
        struct literals literals;
        if (pattern_parse(&pattern, (struct slice){rules->text[i], rules->len[i]}, 0, &error)) {
            continue;
        }
        literals_find(&pattern, &literals);
        if (literals.best.count == 0) {
            set->always[set->always_count++] = (uint32_t)i;
        }
        for (unsigned k = 0; k < literals.best.count; k++) {
            size_t at = set->literal_count++;
            texts[at] = bench_alloc(LITERALS_TEXT_MAX, 1);
            memcpy(texts[at], literals.best.text[k], literals.best.len[k]);
            lens[at] = literals.best.len[k];
            ids[at] = (unsigned)at;
            flags[at] = HS_FLAG_CASELESS | HS_FLAG_SINGLEMATCH;
            set->rule_of[at] = (uint32_t)i;
        }
    }
    pattern_fini(&pattern);
    hs_compile_error_t *error;
    if (hs_compile_lit_multi((const char *const *)texts, flags, ids, lens, (unsigned)set->literal_count, HS_MODE_BLOCK,
                             NULL, &set->database, &error) != HS_SUCCESS
        || hs_alloc_scratch(set->database, &set->scratch) != HS_SUCCESS) {
        fprintf(stderr, "Hyperscan does not compile this\n");
        exit(1);
    }
}

static void
compile_all(struct matcher_set *set, const struct lines *rules)
{
    set->codes = bench_alloc(rules->count, sizeof(pcre2_code *));
    set->data = pcre2_match_data_create(1, NULL);
    for (size_t i = 0; i < rules->count; i++) {
        int code;
        PCRE2_SIZE position;
        set->codes[i] = pcre2_compile((PCRE2_SPTR)rules->text[i], rules->len[i], 0, &code, &position, NULL);
        if (set->codes[i] == NULL || pcre2_jit_compile(set->codes[i], PCRE2_JIT_COMPLETE) != 0) {
            exit(1);
        }
    }
}

int
main(int argc, char **argv)
{
    static struct matcher_set set;
    long sum;
    if (argc != 4) {
        return 2;
    }
    struct lines rules = bench_read_lines(argv[1]), misses = bench_read_lines(argv[2]), hits = bench_read_lines(argv[3]);
    double since = bench_seconds();
    build(&set, &rules);
    double built = bench_seconds() - since;
    compile_all(&set, &rules);
    bench_drop_hits(&misses, match, &set);
    double miss = bench_time(match, &set, &misses, SIZE_MAX, 0.5, &sum);
    double hit = bench_time(match, &set, &hits, SIZE_MAX, 0.5, &sum);
    printf("{\"miss_ns\": %.0f, \"hit_ns\": %.0f, \"cold_ms\": %.0f}\n", miss, hit, built * 1e3);
    return 0;
}
