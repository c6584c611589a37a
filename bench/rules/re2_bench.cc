// re2_bench RULES MISSES HITS: RE2::Set for what it can compile, PCRE2's JIT code for the rest.  Prints JSON.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <re2/re2.h>
#include <re2/set.h>

#include <algorithm>
#include <vector>

#include "bench.h"

struct Rules {
    RE2::Set *set;
    std::vector<long> numbers;    // of those in the set
    std::vector<std::pair<long, pcre2_code *>> others;
    std::vector<int> found;
    pcre2_match_data *data;
};

static long
match(void *context, const char *url, size_t len)
{
    Rules *rules = static_cast<Rules *>(context);
    long first = -1;
    rules->found.clear();
    if (rules->set->Match(re2::StringPiece(url, len), &rules->found)) {
        first = rules->numbers[*std::min_element(rules->found.begin(), rules->found.end())];
    }
    for (const auto &other : rules->others) {
        if (first != -1 && other.first > first) {
            break;
        }
        if (pcre2_jit_match(other.second, (PCRE2_SPTR)url, len, 0, 0, rules->data, NULL) >= 0) {
            return other.first;
        }
    }
    return first;
}

int
main(int argc, char **argv)
{
    if (argc != 4) {
        return 2;
    }
    lines given = bench_read_lines(argv[1]), misses = bench_read_lines(argv[2]), hits = bench_read_lines(argv[3]);
    Rules rules;
    RE2::Options options;
    options.set_log_errors(false);
    options.set_encoding(RE2::Options::EncodingLatin1);
    options.set_max_mem(INT64_C(256) << 20);
    double since = bench_seconds();
    rules.set = new RE2::Set(options, RE2::UNANCHORED);
    rules.data = pcre2_match_data_create(1, NULL);
    for (size_t i = 0; i < given.count; i++) {
        std::string error;
        if (rules.set->Add(re2::StringPiece(given.text[i], given.len[i]), &error) >= 0) {
            rules.numbers.push_back((long)i);
            continue;
        }
        int code;
        PCRE2_SIZE position;
        pcre2_code *other = pcre2_compile((PCRE2_SPTR)given.text[i], given.len[i], 0, &code, &position, NULL);
        pcre2_jit_compile(other, PCRE2_JIT_COMPLETE);
        rules.others.emplace_back((long)i, other);
    }
    if (!rules.set->Compile()) {
        fprintf(stderr, "RE2 does not compile this\n");
        return 1;
    }
    double built = bench_seconds() - since;
    long sum;
    size_t sample = given.count > 1000 ? 100 : 1000;
    misses.count = misses.count < sample * 2 ? misses.count : sample * 2;
    bench_drop_hits(&misses, match, &rules);
    double miss = bench_time(match, &rules, &misses, sample, 0.5, &sum);
    double hit = bench_time(match, &rules, &hits, sample, 0.5, &sum);
    printf("{\"miss_ns\": %.0f, \"hit_ns\": %.0f, \"cold_ms\": %.0f}\n", miss, hit, built * 1e3);
    return 0;
}
