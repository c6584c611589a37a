/* redos_bench: patterns that backtrack for long, alone and all together, on URLs of 2 kB made for them.  Prints the worst
 * time of one URL as the rules were loaded, and with the quarantine taken away, as if no probe had seen the danger. */
#include "bench.h"
#include "rules_state.h"

#define URL_SIZE 2000

static const char *const patterns[] = {
    "(a+)+$", "(a|aa)+$", "(x+x+)+[yz]", "(.*)*[#%]", "^(.*?,){11}[PQ]", "([^/]*/)*[#%]", "(\\w+\\.?)+$",
    "(?:[a-z0-9-]+\\.?)+[:;]", "^https?://([a-z0-9]+\\.?)*/[#%]", "(a*)*[bc]", "(?=(a+))*\\1[bc]",
    "^(?:(a+)|b)*[cd]", "(a{1,50}){1,50}[#%]", ".*[#%]", "^.*a.*[#%]", ".*.*[#%]", "^.*.*.*[#%]", ".*.*.*[#%]",
    "\\d+\\d+[#%]", "\\d+\\d+\\d+[#%]", "^.*ads.*banner.*[0-9]+.*gi[fg]", "^.*a.*a.*a.*[#%]", "^.*(a).*(a).*[#%]",
    "a*a*a*[#%]", "(?:a?){12}[#%]", "(?:a|aa){6}[#%]", "(?:a|aa){9}[#%]", "(?:aa?){12}[#%]", "(a?){8}[#%]",
    "a+[#%]", "[^/]*a[#%]", "(?i)a+a+[#%]", "(?:[a-z]+)+[#%]", "(a)?(a)?(a)?(a)?(a)?(a)?(a)?(a)?[#%]",
    "^https?://(?:[a-z]|x)+$", "((a|b)/?)*$",
};
static const char *const runs[] = {"a", "x", "/", "1", ",", "a.", "a/", "ads1banner", "ab", "aX", "a,"};
/* With a tail that lets no match come about, and one that PCRE2 wants to see before it begins. */
static const char *const tails[] = {"!", "~gfPQycd:b%0!"};
static const char *const heads[] = {"https://", "https://x.test/", "http://a.b:8/?q="};

static double
time_once(const struct rules *rules, const char *url, struct rules_scratch *scratch)
{
    double since = bench_seconds();
    (void)rules_match(rules, (struct slice){url, URL_SIZE}, scratch);
    return bench_seconds() - since;
}

/* Milliseconds: for each URL the best of three, as only the URL's own cost counts; of those the worst. */
static double
worst_url(const struct rules *rules, struct rules_scratch *scratch)
{
    double worst = 0;
    for (size_t i = 0; i < COUNT_OF(runs) * COUNT_OF(tails) * COUNT_OF(heads); i++) {
        char url[URL_SIZE + 32];
        const char *run = runs[i / COUNT_OF(tails) % COUNT_OF(runs)], *tail = tails[i % COUNT_OF(tails)];
        size_t len = (size_t)sprintf(url, "%s", heads[i / COUNT_OF(tails) / COUNT_OF(runs)]);
        while (len < URL_SIZE) {
            len += (size_t)sprintf(url + len, "%s", run);
        }
        memcpy(url + URL_SIZE - strlen(tail), tail, strlen(tail));
        double best = 1;
        for (int k = 0; k < 3; k++) {
            double took = time_once(rules, url, scratch);
            best = took < best ? took : best;
        }
        worst = best > worst ? best : worst;
    }
    return worst * 1e3;
}

static struct rules *
build(size_t first, size_t count)
{
    static struct wire_rule given[COUNT_OF(patterns)];
    struct rules *rules;
    struct rules_report report;
    for (size_t i = 0; i < count; i++) {
        given[i] = (struct wire_rule){
            .id = {.kind = WIRE_ID_INTEGER, .integer = (int64_t)i},
            .pattern = (char *)(uintptr_t)patterns[first + i],
            .pattern_len = strlen(patterns[first + i]),
        };
    }
    if (rules_build(&(struct wire_rules){given, count}, NULL, &rules, &report) || report.compiled != count) {
        fprintf(stderr, "not built\n");
        exit(1);
    }
    return rules;
}

int
main(void)
{
    struct rules_scratch *scratch;
    double alone = 0, alone_free = 0;
    size_t quarantined = 0;
    if (rules_scratch_create(&scratch)) {
        return 1;
    }
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        struct rules *rules = build(i, 1);
        struct matcher *matcher = rules->rules[0].matcher;
        double took = worst_url(rules, scratch);
        quarantined += matcher->quarantined;
        alone = took > alone ? took : alone;
        bool was = matcher->quarantined;
        matcher->quarantined = false;
        double took_free = worst_url(rules, scratch);
        alone_free = took_free > alone_free ? took_free : alone_free;
        fprintf(stderr, "%-45s %s %.3f ms, without quarantine %.3f ms\n", patterns[i], was ? "quarantined" : "", took,
                took_free);
        rules_unref(rules);
    }
    struct rules *all = build(0, COUNT_OF(patterns));
    double together = worst_url(all, scratch);
    for (size_t i = 0; i < all->count; i++) {
        all->rules[i].matcher->quarantined = false;
    }
    double together_free = worst_url(all, scratch);
    rules_unref(all);
    rules_scratch_destroy(scratch);
    printf("{\"patterns\": %zu, \"quarantined\": %zu, \"alone_ms\": %.3f, \"together_ms\": %.3f, "
           "\"alone_without_ms\": %.3f, \"together_without_ms\": %.3f}\n",
           COUNT_OF(patterns), quarantined, alone, together, alone_free, together_free);
    return 0;
}
