#include "rules.h"

#include <pthread.h>

#include "harness.h"
#include "lock.h"

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

static void
unref_rules(struct rules **rules)
{
    rules_unref(*rules);
}

static void
destroy_scratch(struct rules_scratch **scratch)
{
    rules_scratch_destroy(*scratch);
}

#define RULES(name) CLEANUP(unref_rules) struct rules *name = NULL
#define REPORT(name) CLEANUP(rules_report_fini) struct rules_report name = {.rejects = NULL}
#define SCRATCH(name)                                                                              \
    CLEANUP(destroy_scratch) struct rules_scratch *name = NULL;                                    \
    TRY(rules_scratch_create(&name))

/* From the JSON that a backend would send. */
static enum err
build(const char *json, struct rules *previous, struct rules **out, struct rules_report *report)
{
    struct wire_rules list;
    char message[WIRE_MESSAGE_SIZE];
    enum err err = wire_parse_rules(text(json), &list, message);
    if (!err) {
        err = rules_build(&list, previous, out, report);
        wire_rules_fini(&list);
    }
    return err;
}

/* The number of the rule that blocks; NOBODY; or LIMIT. */
enum { NOBODY = -1000, LIMIT };

static int64_t
blocker(const struct rules *rules, const char *subject, struct rules_scratch *scratch)
{
    struct rules_hit hit = rules_match(rules, text(subject), scratch);
    return hit.outcome == RULES_MATCH ? hit.id->integer : hit.outcome == RULES_LIMIT ? LIMIT : NOBODY;
}

static void
test_first_match_in_list_order(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    TRY(build(
        "[{\"id\": 5, \"pattern\": \"evil\"}, {\"id\": \"five\", \"pattern\": \"evil.*admin\"},"
        " {\"id\": 2, \"pattern\": \"admin\"}]",
        NULL, &rules, &report));
    CHECK_INT(rules_count(rules), 3);
    CHECK_INT(report.given, 3);
    CHECK_INT(report.compiled, 3);
    CHECK_INT(report.rejected, 0);
    CHECK_INT(report.rejects_kept, 0);
    struct rules_hit hit = rules_match(rules, text("http://evil.test/admin"), scratch);
    REQUIRE(hit.outcome == RULES_MATCH);
    CHECK_INT(hit.id->integer, 5);
    CHECK_STRING(hit.pattern, "evil");
    hit = rules_match(rules, text("http://good.test/admin"), scratch);
    REQUIRE(hit.outcome == RULES_MATCH);
    CHECK_INT(hit.id->integer, 2);
    hit = rules_match(rules, text("http://good.test/"), scratch);
    CHECK_INT(hit.outcome, RULES_NO_MATCH);
    CHECK(hit.id == NULL && hit.pattern == NULL);
}

static void
test_empty_list(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    TRY(build("[]", NULL, &rules, &report));
    CHECK_INT(rules_count(rules), 0);
    CHECK_INT(report.given, 0);
    CHECK_INT(rules_match(rules, text("http://evil.test/"), scratch).outcome, RULES_NO_MATCH);
}

static void
test_broken_rules_are_reported_and_skipped(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    TRY(build("[{\"id\": 1, \"pattern\": \"a(\"}, {\"id\": 2, \"pattern\": \"evil\"},"
              " {\"id\": \"three\", \"pattern\": \"bad[\"}]",
              NULL, &rules, &report));
    CHECK_INT(report.given, 3);
    CHECK_INT(report.compiled, 1);
    CHECK_INT(report.rejected, 2);
    REQUIRE(report.rejects_kept == 2);
    CHECK_INT(report.rejects[0].id.integer, 1);
    CHECK_INT(report.rejects[0].error.position, 1);
    CHECK(strlen(report.rejects[0].error.message) > 5);
    CHECK_STRING(report.rejects[1].id.string, "three");
    CHECK_INT(report.rejects[1].error.position, 3);
    struct rules_hit hit = rules_match(rules, text("http://evil.test/"), scratch);
    REQUIRE(hit.outcome == RULES_MATCH);
    CHECK_INT(hit.id->integer, 2);
}

static void
test_keeps_the_first_rejects(void)
{
    static struct wire_rule broken[RULES_REJECTS_KEPT + 5];
    static char pattern[] = "(";
    RULES(rules);
    REPORT(report);
    struct wire_rules list = {broken, COUNT_OF(broken)};
    for (size_t i = 0; i < COUNT_OF(broken); i++) {
        broken[i] = (struct wire_rule){
            .id = {.kind = WIRE_ID_INTEGER, .integer = (int64_t)i},
            .pattern = pattern,
            .pattern_len = 1,
        };
    }
    TRY(rules_build(&list, NULL, &rules, &report));
    CHECK_INT(report.rejected, COUNT_OF(broken));
    CHECK_INT(report.rejects_kept, RULES_REJECTS_KEPT);
    CHECK_INT(report.rejects[RULES_REJECTS_KEPT - 1].id.integer, RULES_REJECTS_KEPT - 1);
    CHECK_INT(rules_count(rules), 0);
}

static void
test_a_limit_denies_under_its_rule(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    TRY(build("[{\"id\": 1, \"pattern\": \"nowhere\"}, {\"id\": 2, \"pattern\": \"^h(a|aa)+$\"},"
              " {\"id\": 3, \"pattern\": \"!\"}]",
              NULL, &rules, &report));
    struct rules_hit hit = rules_match(
        rules, text("haaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"), scratch);
    REQUIRE(hit.outcome == RULES_LIMIT && hit.id != NULL);
    CHECK_INT(hit.id->integer, 2);
    CHECK_STRING(hit.pattern, "^h(a|aa)+$");
}

static void
test_same_pattern_twice(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    TRY(build("[{\"id\": 1, \"pattern\": \"evil\"}, {\"id\": 2, \"pattern\": \"evil\"}]", NULL,
              &rules, &report));
    CHECK_INT(rules_count(rules), 2);
    struct rules_hit hit = rules_match(rules, text("evil"), scratch);
    REQUIRE(hit.outcome == RULES_MATCH);
    CHECK_INT(hit.id->integer, 1);
}

static void
test_takes_over_what_was_compiled(void)
{
    enum { COUNT = 60 };
    static struct wire_rule rule[COUNT];
    static char pattern[COUNT][20];
    RULES(first);
    RULES(second);
    RULES(third);
    SCRATCH(scratch);
    struct wire_rules list = {rule, COUNT};
    for (int i = 0; i < COUNT; i++) {
        int len = snprintf(pattern[i], sizeof pattern[i], "^name-%d$", i);
        rule[i] = (struct wire_rule){
            .id = {.kind = WIRE_ID_INTEGER, .integer = i},
            .pattern = pattern[i],
            .pattern_len = (size_t)len,
        };
    }
    REPORT(report);
    size_t live = mem_live();
    TRY(rules_build(&list, NULL, &first, &report));
    size_t cost = mem_live() - live;
    TRY(rules_build(&list, first, &second, &report));
    /* A list that is the same as before is not even looked at twice. */
    CHECK_INT(mem_live() - live - cost, 0);
    CHECK(second == first);
    CHECK_INT(report.compiled, COUNT);
    rules_unref(second);
    second = NULL;
    rule[7].id.integer = 4710;
    TRY(rules_build(&list, first, &second, &report));
    CHECK(second != first);
    CHECK(mem_live() - live - cost < 10);
    CHECK_INT(report.compiled, COUNT);
    /* What the new set took over stays when the old one goes. */
    rules_unref(first);
    first = NULL;
    rule[5].pattern_len--; /* "^name-5" */
    rule[8].id.integer = 4711;
    TRY(rules_build(&list, second, &third, &report));
    CHECK_INT(blocker(third, "name-55", scratch), 5);
    CHECK_INT(blocker(third, "name-8", scratch), 4711);
    CHECK_INT(blocker(second, "name-55", scratch), 55);
    CHECK_INT(blocker(second, "name-8", scratch), 8);
    for (int i = 9; i < COUNT; i++) {
        char subject[20];
        snprintf(subject, sizeof subject, "name-%d", i);
        struct rules_hit hit = rules_match(second, text(subject), scratch);
        REQUIRE(hit.outcome == RULES_MATCH);
        CHECK_INT(hit.id->integer, i);
    }
}

static void
test_report_of_an_unchanged_list(void)
{
    static const char list[] = "[{\"id\": \"no\", \"pattern\": \"a(\"}, {\"id\": 2, \"pattern\": \"evil\"}]";
    static const char other[] = "[{\"id\": \"no\", \"pattern\": \"b(\"}, {\"id\": 2, \"pattern\": \"evil\"}]";
    RULES(first);
    RULES(second);
    RULES(third);
    REPORT(report);
    REPORT(again);
    REPORT(changed);
    TRY(build(list, NULL, &first, &report));
    TRY(build(list, first, &second, &again));
    CHECK(second == first);
    CHECK_INT(again.given, 2);
    CHECK_INT(again.rejected, 1);
    REQUIRE(again.rejects_kept == 1);
    CHECK_STRING(again.rejects[0].id.string, "no");
    CHECK_STRING(again.rejects[0].error.message, report.rejects[0].error.message);
    /* What was rejected before belongs to the list, too. */
    TRY(build(other, first, &third, &changed));
    CHECK(third != first);
}

static void
test_report_of_what_costs(void)
{
    RULES(rules);
    REPORT(report);
    struct rules_info info;
    TRY(build("[{\"id\": 0, \"pattern\": \"evil\"}, {\"id\": 1, \"pattern\": \".*\"},"
              " {\"id\": 2, \"pattern\": \"^https?://[^/]{120,}/\"}, {\"id\": 3, \"pattern\": \"evil\"},"
              " {\"id\": 4, \"pattern\": \".*\"}, {\"id\": 5, \"pattern\": \"^https?://(a+)+[#]\"}]",
              NULL, &rules, &report));
    CHECK_INT(report.compiled, 6);
    CHECK_INT(report.duplicates, 2);
    CHECK_INT(report.always, 2);
    CHECK_INT(report.everything, 1);
    CHECK_INT(report.quarantined, 1);
    static const struct {
        size_t first;
        bool always, everything, quarantined;
    } wanted[] = {{0, 0, 0, 0}, {1, 1, 1, 0}, {2, 1, 0, 0}, {0, 0, 0, 0}, {1, 1, 1, 0}, {5, 0, 0, 1}};
    for (size_t i = 0; i < COUNT_OF(wanted); i++) {
        rules_get(rules, i, &info);
        CHECK_INT(info.id->integer, (int)i);
        CHECK_INT(info.first, wanted[i].first);
        CHECK(info.always == wanted[i].always);
        CHECK(info.everything == wanted[i].everything);
        CHECK(info.quarantined == wanted[i].quarantined);
    }
    rules_get(rules, 0, &info);
    CHECK_STRING(info.pattern, "evil");
}

/* Rules that are looked up and rules that are always tried take turns, and the first one in the list is named. */
static void
test_order_of_both_kinds(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    TRY(build("[{\"id\": 0, \"pattern\": \"zebra\"}, {\"id\": 1, \"pattern\": \"[0-9]{3}\"},"
              " {\"id\": 2, \"pattern\": \"apple\"}, {\"id\": 3, \"pattern\": \"[A-Z]\"},"
              " {\"id\": 4, \"pattern\": \"mango\"}]",
              NULL, &rules, &report));
    CHECK_INT(report.always, 2);
    CHECK_INT(blocker(rules, "mango", scratch), 4);
    CHECK_INT(blocker(rules, "mango X", scratch), 3);
    CHECK_INT(blocker(rules, "mango X apple", scratch), 2);
    CHECK_INT(blocker(rules, "mango X apple 123", scratch), 1);
    CHECK_INT(blocker(rules, "mango X apple 123 zebra", scratch), 0);
    CHECK_INT(blocker(rules, "ZEBRA", scratch), 3); /* the index does not tell case, the rule does */
    CHECK_INT(blocker(rules, "nothing", scratch), NOBODY);
}

static void
test_counters(void)
{
    static const char first_list[] = "[{\"id\": 1, \"pattern\": \"evil\"}, {\"id\": 2, \"pattern\": \"evil\"},"
                                     " {\"id\": 3, \"pattern\": \"^h(a|aa)+$\"}]";
    static const char second_list[] = "[{\"id\": 9, \"pattern\": \"new\"}, {\"id\": 7, \"pattern\": \"evil\"}]";
    RULES(first);
    RULES(second);
    REPORT(report);
    REPORT(second_report);
    SCRATCH(scratch);
    struct rules_info info;
    TRY(build(first_list, NULL, &first, &report));
    CHECK_INT(blocker(first, "evil", scratch), 1);
    CHECK_INT(blocker(first, "xevil", scratch), 1);
    CHECK_INT(blocker(first, "good", scratch), NOBODY);
    CHECK_INT(blocker(first, "haaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", scratch), LIMIT);
    rules_get(first, 0, &info);
    CHECK_INT(info.hits, 2);
    CHECK_INT(info.limits, 0);
    rules_get(first, 2, &info);
    CHECK_INT(info.hits, 0);
    CHECK_INT(info.limits, 1);
    /* They go on in the next set. */
    TRY(build(second_list, first, &second, &second_report));
    CHECK_INT(blocker(second, "evil", scratch), 7);
    rules_get(second, 1, &info);
    CHECK_INT(info.hits, 3);
    rules_get(second, 0, &info);
    CHECK_INT(info.hits, 0);
}

static size_t places[RULES_COUNTED_MAX];

static void
test_rules_that_have_counted_are_noted(void)
{
    static const char first_list[] = "[{\"id\": 1, \"pattern\": \"good\"}, {\"id\": 2, \"pattern\": \"evil\"},"
                                     " {\"id\": 3, \"pattern\": \"^h(a|aa)+$\"}]";
    static const char second_list[] = "[{\"id\": 2, \"pattern\": \"evil\"}, {\"id\": 9, \"pattern\": \"new\"},"
                                      " {\"id\": 8, \"pattern\": \"evil\"}]";
    RULES(first);
    RULES(second);
    REPORT(report);
    REPORT(second_report);
    SCRATCH(scratch);
    TRY(build(first_list, NULL, &first, &report));
    CHECK_INT(rules_counted(first), 0);
    CHECK_INT(rules_counted_places(first, places), 0);
    CHECK_INT(blocker(first, "haaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", scratch), LIMIT);
    CHECK_INT(blocker(first, "evil", scratch), 2);
    CHECK_INT(blocker(first, "evil", scratch), 2);
    REQUIRE(rules_counted_places(first, places) == 2);
    CHECK_INT(places[0], 2);
    CHECK_INT(places[1], 1);
    /* So they are in the next set, once for each pattern. */
    TRY(build(second_list, first, &second, &second_report));
    REQUIRE(rules_counted_places(second, places) == 1);
    CHECK_INT(places[0], 0);
    CHECK_INT(blocker(second, "new", scratch), 9);
    CHECK_INT(rules_counted(second), 2);
}

static void
test_more_rules_count_than_are_noted(void)
{
    CLEANUP(buf_fini) struct buf list;
    char line[80];
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    buf_init(&list, 1 << 20);
    for (int i = 0; i < RULES_COUNTED_MAX + 5; i++) {
        snprintf(line, sizeof line, "%c{\"id\": %d, \"pattern\": \"name%dx\"}", i == 0 ? '[' : ',', i, i);
        TRY(buf_append_string(&list, line));
    }
    TRY(buf_append_string(&list, "]"));
    TRY(build(buf_string(&list), NULL, &rules, &report));
    for (int i = 0; i < RULES_COUNTED_MAX + 5; i++) {
        snprintf(line, sizeof line, "name%dx", i);
        CHECK_INT(blocker(rules, line, scratch), i);
    }
    CHECK_INT(rules_counted(rules), RULES_COUNTED_MAX + 5);
    CHECK_INT(rules_counted_places(rules, places), RULES_COUNTED_MAX);
    CHECK_INT(places[RULES_COUNTED_MAX - 1], RULES_COUNTED_MAX - 1);
}

/* Late and briefly, but as exact as any. */
static void
test_quarantine(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    char subject[2000] = "https://x.test/";
    TRY(build("[{\"id\": 1, \"pattern\": \"^https?://([a-z]+)+[#]\"}, {\"id\": 2, \"pattern\": \"evil\"},"
              " {\"id\": 3, \"pattern\": \"x[.]test/(?:a|aa)+!\"}]",
              NULL, &rules, &report));
    CHECK_INT(report.quarantined, 2);
    CHECK_INT(blocker(rules, "https://good#", scratch), 1);
    CHECK_INT(blocker(rules, "https://evil#", scratch), 2); /* though 1 comes first */
    CHECK_INT(blocker(rules, "https://x.test/aaa!", scratch), 3);
    CHECK_INT(blocker(rules, "https://x.test/aaa", scratch), NOBODY);
    /* Some 2,000 ways to read it: nothing for another rule, too many for this one. */
    CHECK_INT(blocker(rules, "https://x.test/aaaaaaaaaaaaaaaa~!", scratch), LIMIT);
    memset(subject + strlen(subject), 'a', sizeof subject - strlen(subject) - 1);
    memcpy(subject + sizeof subject - 3, "~!", 3);
    CHECK_INT(blocker(rules, subject, scratch), LIMIT);
    memcpy(subject + 1000, "evil", 4);
    CHECK_INT(blocker(rules, subject, scratch), 2);
}

/* A rule that may backtrack is searched for piece by piece: no place is left out. */
static void
test_every_place_of_a_suspect(void)
{
    enum { LEN = 300 };
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    char subject[LEN + 1];
    TRY(build("[{\"id\": 1, \"pattern\": \"q[a-c]*[b-d]*zz\"}]", NULL, &rules, &report));
    memset(subject, '-', LEN);
    subject[LEN] = '\0';
    CHECK_INT(blocker(rules, subject, scratch), NOBODY);
    for (size_t at = 0; at + 4 <= LEN; at++) {
        memcpy(subject + at, "qazz", 4);
        CHECK_INT(blocker(rules, subject, scratch), 1);
        memcpy(subject + at, "----", 4);
    }
}

/* Patterns from the literature, each of which makes some subject expensive, and what a subject is made of. */
static void
test_expensive_patterns(void)
{
    static const char *const patterns[] = {
        "(a+)+$", "(a|aa)+$", "(.*)*[#%]", "^(.*?,){11}[PQ]", "([^/]*/)*[#%]", "(\\\\w+\\\\.?)+$",
        "(?:[a-z0-9-]+\\\\.?)+[:;]{2}", "(a*)*[bc]{2}#", "(?=(a+))*\\\\1[bc]#", "^https?://(?:(a+)|b)*[cd]#",
        "\\\\d+\\\\d+\\\\d+[#%]", "^.*a.*a.*a.*[#%]", "(?:aa?){12}[#%]", "(?:a|aa){9}[#%]", "(?i)a+a+a+[#%]",
    };
    static const char *const runs[] = {"a", "1", "/", ",", "a.", "ab"};
    char json[200], subject[2000];
    SCRATCH(scratch);
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        RULES(rules);
        REPORT(report);
        snprintf(json, sizeof json, "[{\"id\": 1, \"pattern\": \"%s\"}]", patterns[i]);
        TRY(build(json, NULL, &rules, &report));
        CHECK_INT(report.compiled, 1);
        for (size_t k = 0; k < COUNT_OF(runs); k++) {
            size_t len = (size_t)snprintf(subject, sizeof subject, "https://x.test/");
            for (; len + 4 < sizeof subject; len += strlen(runs[k])) {
                memcpy(subject + len, runs[k], strlen(runs[k]));
            }
            memcpy(subject + len, "!", 2);
            double since = harness_seconds();
            CHECK(blocker(rules, subject, scratch) != 1 || patterns[i][0] == '^');
            /* Far above what it takes, for sanitizers and busy machines; far below what it would take without. */
            CHECK(harness_seconds() - since < 2);
        }
    }
}

static void
test_refs(void)
{
    RULES(rules);
    REPORT(report);
    SCRATCH(scratch);
    TRY(build("[{\"id\": 1, \"pattern\": \"evil\"}]", NULL, &rules, &report));
    struct rules *other = rules_ref(rules);
    rules_unref(other);
    CHECK_INT(rules_match(rules, text("evil"), scratch).outcome, RULES_MATCH);
    rules_unref(NULL);
    rules_scratch_destroy(NULL);
}

/* --- threads --- */

enum { READERS = 3, SWAPS = 60, PATTERNS = 20 };

struct place {
    struct lock lock;
    struct rules *rules;
    atomic_bool stop;
    atomic_uint matches, wrong;
};

static struct rules *
current_rules(struct place *place)
{
    lock_take(&place->lock);
    struct rules *rules = rules_ref(place->rules);
    lock_drop(&place->lock);
    return rules;
}

/* Every set blocks "stays-…" by its last rule, whichever set that is. */
static void *
match_until_stopped(void *context)
{
    struct place *place = context;
    struct rules_scratch *scratch;
    if (rules_scratch_create(&scratch)) {
        place->wrong++;
        return NULL;
    }
    while (!place->stop) {
        struct rules *rules = current_rules(place);
        struct rules_hit hit = rules_match(rules, text("http://stays-7.test/"), scratch);
        place->wrong += hit.outcome != RULES_MATCH || hit.id->integer != -1;
        place->wrong += rules_match(rules, text("http://a/"), scratch).outcome != RULES_NO_MATCH;
        place->matches++;
        rules_unref(rules);
    }
    rules_scratch_destroy(scratch);
    return NULL;
}

/* The first search makes the machine code, whoever comes first. */
static void
test_first_search_in_all_threads_at_once(void)
{
    struct place place = {.rules = NULL};
    pthread_t readers[READERS];
    REPORT(report);
    lock_init(&place.lock);
    TRY(build("[{\"id\": 3, \"pattern\": \"http://a/b\"}, {\"id\": -1, \"pattern\": \"^http://stays-\\\\d\"}]", NULL,
              &place.rules, &report));
    for (size_t i = 0; i < READERS; i++) {
        if (pthread_create(&readers[i], NULL, match_until_stopped, &place) != 0) {
            abort();
        }
    }
    double since = harness_seconds();
    while (place.matches < 100 && harness_may_wait(since)) {
        continue;
    }
    place.stop = true;
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i], NULL);
    }
    CHECK_INT(place.wrong, 0);
    CHECK(place.matches >= 100);
    lock_fini(&place.lock);
    rules_unref(place.rules);
}

static enum err
build_round(int round, struct rules *previous, struct rules **out)
{
    char pattern[PATTERNS][40];
    struct wire_rule rule[PATTERNS];
    struct rules_report report;
    for (int i = 0; i < PATTERNS; i++) {
        bool is_last = i == PATTERNS - 1;
        int len = is_last ? snprintf(pattern[i], sizeof pattern[i], "^http://stays-\\d")
                          : snprintf(pattern[i], sizeof pattern[i], "gone-%d", round + i);
        rule[i] = (struct wire_rule){
            .id = {.kind = WIRE_ID_INTEGER, .integer = is_last ? -1 : i},
            .pattern = pattern[i],
            .pattern_len = (size_t)len,
        };
    }
    struct wire_rules list = {rule, PATTERNS};
    enum err err = rules_build(&list, previous, out, &report);
    if (!err) {
        rules_report_fini(&report);
    }
    return err;
}

static void
test_swapped_while_others_match(void)
{
    struct place place = {.rules = NULL};
    pthread_t readers[READERS];
    TRY(build_round(0, NULL, &place.rules));
    lock_init(&place.lock);
    for (size_t i = 0; i < READERS; i++) {
        if (pthread_create(&readers[i], NULL, match_until_stopped, &place) != 0) {
            abort();
        }
    }
    for (int round = 1; round <= SWAPS; round++) {
        struct rules *next;
        if (build_round(round, place.rules, &next)) {
            place.wrong++;
            break;
        }
        unsigned before = place.matches;
        lock_take(&place.lock);
        struct rules *old = place.rules;
        place.rules = next;
        lock_drop(&place.lock);
        rules_unref(old);
        /* Someone must have matched since, or the swap proves nothing. */
        double since = harness_seconds();
        while (place.matches == before && harness_may_wait(since)) {
            continue;
        }
    }
    place.stop = true;
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i], NULL);
    }
    CHECK_INT(place.wrong, 0);
    CHECK(place.matches >= SWAPS);
    lock_fini(&place.lock);
    rules_unref(place.rules);
}

TESTS(TEST(first_match_in_list_order), TEST(empty_list), TEST(broken_rules_are_reported_and_skipped),
      TEST(keeps_the_first_rejects), TEST(a_limit_denies_under_its_rule), TEST(same_pattern_twice),
      TEST(takes_over_what_was_compiled), TEST(report_of_an_unchanged_list), TEST(report_of_what_costs),
      TEST(order_of_both_kinds), TEST(counters),
      TEST(rules_that_have_counted_are_noted), TEST(more_rules_count_than_are_noted), TEST(quarantine), TEST_WITHOUT_CHAOS(every_place_of_a_suspect), TEST_WITHOUT_CHAOS(expensive_patterns), TEST(refs),
      TEST_WITHOUT_CHAOS(first_search_in_all_threads_at_once), TEST_WITHOUT_CHAOS(swapped_while_others_match))
