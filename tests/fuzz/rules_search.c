/* rules_search MATCHES [SEED]: random rule sets and URLs that some of the rules were made to match, until there were
 * that many matches of one rule.  No match is hidden by the index, and the rule that is named is the first one.
 *
 * Each pattern is made together with a text that it matches, so that most subjects mean something. */
#include <inttypes.h>

#include "fuzz.h"
#include "mem.h"
#include "rules_state.h"

#define TEXT_MAX 600
#define RULES_COUNT 24
#define SUBJECTS 60

static uint64_t random_state;

static unsigned
below(unsigned bound)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(random_state >> 33) % bound;
}

struct text {
    size_t len;
    char bytes[TEXT_MAX];
};

static void
add(struct text *text, const char *more, size_t len)
{
    if (text->len + len < TEXT_MAX) {
        memcpy(text->bytes + text->len, more, len);
        text->len += len;
    }
}

static void
add_string(struct text *text, const char *more)
{
    add(text, more, strlen(more));
}

/* --- a pattern, and what it matches --- */

static void
make_sequence(struct text *pattern, struct text *match, unsigned depth);

static void
make_word(struct text *pattern, struct text *match)
{
    static const char *const words[] = {
        "evil", "nasty", "ads", "ab", "a", "b", "zq", "x1", "com", "tracker", "/", "-", "_", "0", "banner", "=",
        "qzxj", "EVIL", "index", "www", "https", "7", "longishword", "aa", "ba",
    };
    /* What they match with (?i) only. */
    static const struct {
        const char *word, *match;
    } cased[] = {
        {"\xc3\xa9t\xc3\xa9", "\xc3\x89T\xc3\x89"},
        {"stra\xc3\x9f" "e", "STRA\xe1\xba\x9e" "E"},
        {"n[\xc3\xa0-\xc3\xaf]q", "N\xc3\x8aQ"},
        {"\xce\xa3x", "\xcf\x82X"},
        {"\xe2\x84\xaazq", "kzq"},
        {"a\xc5\xbf", "AS"},
    };
    static const char *const dots[] = {"\\.", "[.]", "\\x2e", "\\056"};
    if (below(12) == 0) {
        unsigned which = below(COUNT_OF(cased));
        add_string(pattern, cased[which].word);
        add_string(match, cased[which].match);
        return;
    }
    if (below(5) == 0) {
        add_string(pattern, dots[below(COUNT_OF(dots))]);
        add_string(match, ".");
        return;
    }
    const char *word = words[below(COUNT_OF(words))];
    add_string(pattern, word);
    add_string(match, word);
}

static void
make_class(struct text *pattern, struct text *match)
{
    static const struct {
        const char *class, *match;
    } classes[] = {
        {"[ab]", "a"}, {"[a-z]", "q"}, {"[^/]", "n"}, {".", "."}, {"\\d", "4"}, {"\\w", "w"}, {"[eE]", "E"},
        {"[0-3x]", "2"}, {"[^\\W_]", "k"}, {"\\S", "/"}, {"[a-c.]", "c"}, {"[abcd]", "d"}, {"[k]", "k"},
    };
    unsigned which = below(COUNT_OF(classes));
    add_string(pattern, classes[which].class);
    add_string(match, classes[which].match);
}

static void
make_group(struct text *pattern, struct text *match, unsigned depth)
{
    static const char *const begins[] = {"(", "(?:", "(?>", "(?i:", "(?=", "(?!zzz|", "(?<!", "(?P<g>"};
    struct text branch;
    unsigned kind = below(COUNT_OF(begins)), branches = 1 + below(3), taken = below(branches);
    if (kind >= 6) {
        add_string(pattern, kind == 6 ? "(?<!zz)" : "\\b");
        return;
    }
    add_string(pattern, begins[kind]);
    for (unsigned i = 0; i < branches; i++) {
        branch.len = 0;
        add_string(pattern, i > 0 ? "|" : "");
        make_sequence(pattern, &branch, depth + 1);
        if (i == taken && kind < 4) {
            add(match, branch.bytes, branch.len);
        }
    }
    add_string(pattern, ")");
}

static void
make_repeat(struct text *pattern, const struct text *once, struct text *match)
{
    static const struct {
        const char *repeat;
        unsigned min, max;
    } repeats[] = {
        {"?", 0, 1}, {"*", 0, 3}, {"+", 1, 3}, {"??", 0, 1}, {"*?", 0, 2}, {"+?", 1, 2}, {"{2}", 2, 2}, {"{1,3}", 1, 3},
        {"{0}", 0, 0}, {"{0,2}", 0, 2}, {"?+", 0, 1}, {"++", 1, 2}, {"{3,}", 3, 4},
    };
    unsigned which = below(COUNT_OF(repeats) * 3);
    if (which >= COUNT_OF(repeats) || once->len == 0) {
        add(match, once->bytes, once->len);
        return;
    }
    add_string(pattern, repeats[which].repeat);
    unsigned times = repeats[which].min + below(repeats[which].max - repeats[which].min + 1);
    while (times-- > 0) {
        add(match, once->bytes, once->len);
    }
}

static void
make_sequence(struct text *pattern, struct text *match, unsigned depth)
{
    for (unsigned parts = below(4) + (depth == 0); parts > 0 && pattern->len < TEXT_MAX / 2; parts--) {
        struct text once = {.len = 0}, part = {.len = 0};
        unsigned kind = below(8);
        if (kind < 4) {
            make_word(&part, &once);
            if (below(3) > 0) {
                add(pattern, part.bytes, part.len);
                add(match, once.bytes, once.len);
                continue;
            }
            add_string(pattern, "(?:");
            add(pattern, part.bytes, part.len);
            add_string(pattern, ")");
        }
        else if (kind < 6 || depth > 2) {
            make_class(pattern, &once);
        }
        else {
            make_group(pattern, &once, depth);
        }
        make_repeat(pattern, &once, match);
    }
}

static void
make_rule(struct text *pattern, struct text *match)
{
    static const char *const begins[] = {"", "", "", "^", "^.*", ".*", "^https?://([^/]*\\.)?", "(?i)", "(?s)"};
    static const char *const ends[] = {"", "", "", ".*$", "(/|$)", ".*", "\\b"};
    unsigned begin = below(COUNT_OF(begins));
    pattern->len = match->len = 0;
    add_string(pattern, begins[begin]);
    add_string(match, begin == 6 ? "https://" : "");
    make_sequence(pattern, match, 0);
    add_string(pattern, ends[below(COUNT_OF(ends))]);
}

/* --- subjects --- */

static void
make_subject(const struct text *matches, struct text *subject)
{
    static const char noise[] = "abcdeghijklmnopqrstuvwxyz0123456789./-_=?&%EVIL";
    subject->len = 0;
    for (unsigned parts = 1 + below(3); parts > 0; parts--) {
        const struct text *match = &matches[below(RULES_COUNT)];
        for (unsigned i = below(2) * below(12); i > 0; i--) {
            add(subject, &noise[below(sizeof noise - 1)], 1);
        }
        add(subject, match->bytes, match->len);
    }
    if (subject->len > 0 && below(4) == 0) {
        subject->bytes[below((unsigned)subject->len)] = noise[below(sizeof noise - 1)];
    }
    for (size_t i = 0; i < subject->len && below(3) == 0; i++) {
        char c = subject->bytes[i];
        subject->bytes[i] = (char)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    }
}

/* --- what must hold --- */

struct session {
    struct rules_scratch *scratch;
    struct regex_scratch *regex;
    struct index_scratch index;
    uint64_t matches, indexed, subjects, limits;
};

static bool
is_in(const uint32_t *items, size_t count, uint32_t number)
{
    for (size_t i = 0; i < count; i++) {
        if (items[i] == number) {
            return true;
        }
    }
    return false;
}

static void
complain(const struct rules *rules, size_t number, const struct text *subject)
{
    fprintf(stderr, "rule %s\nsubject %.*s\n", rules->rules[number].matcher->bytes, (int)subject->len, subject->bytes);
}

/* Every rule by itself; -1: none; -2: one came to a limit, so that the answers may differ. */
static long
first_by_trying_all(struct session *session, const struct rules *rules, const struct text *text)
{
    struct slice subject = {text->bytes, text->len};
    const uint32_t *found = NULL;
    size_t count = 0;
    long first = -1, first_quarantined = -1;
    if (rules->index != NULL) {
        INVARIANT(!index_find(rules->index, subject, &session->index, &found, &count));
    }
    for (size_t i = 0; i < rules->count; i++) {
        struct matcher *matcher = rules->rules[i].matcher;
        struct budget budget;
        budget_init(&budget, 1000000000);
        enum regex_outcome outcome = matcher_search(matcher, subject, &budget, session->regex);
        if (outcome == REGEX_LIMIT) {
            session->limits++;
            return -2;
        }
        if (outcome == REGEX_NO_MATCH) {
            continue;
        }
        session->matches++;
        session->indexed += !matcher->always;
        if (!matcher->always && !is_in(found, count, rules->rules[i].first)) {
            complain(rules, i, text);
            INVARIANT(!"hidden by the index");
        }
        long *slot = matcher->quarantined ? &first_quarantined : &first;
        *slot = *slot == -1 ? (long)i : *slot;
    }
    return first != -1 ? first : first_quarantined;
}

static void
check_subject(struct session *session, const struct rules *rules, const struct text *text)
{
    long wanted = first_by_trying_all(session, rules, text);
    struct rules_hit hit = rules_match(rules, (struct slice){text->bytes, text->len}, session->scratch);
    session->subjects++;
    if (wanted == -2 || hit.outcome == RULES_LIMIT) {
        return;
    }
    if (hit.outcome == RULES_NO_MATCH ? wanted != -1 : wanted == -1 || hit.id != &rules->rules[wanted].id) {
        complain(rules, wanted == -1 ? 0 : (size_t)wanted, text);
        INVARIANT(!"not the first rule");
    }
}

static void
check_set(struct session *session)
{
    static struct text patterns[RULES_COUNT], matches[RULES_COUNT];
    struct wire_rule given[RULES_COUNT];
    struct wire_rules list = {given, RULES_COUNT};
    struct rules *rules;
    struct rules_report report;
    for (size_t i = 0; i < RULES_COUNT; i++) {
        make_rule(&patterns[i], &matches[i]);
        given[i] = (struct wire_rule){
            .id = {.kind = WIRE_ID_INTEGER, .integer = (int64_t)i},
            .pattern = patterns[i].bytes,
            .pattern_len = patterns[i].len,
        };
    }
    INVARIANT(!rules_build(&list, NULL, &rules, &report));
    for (unsigned i = 0; i < SUBJECTS && rules->count > 0; i++) {
        struct text subject;
        make_subject(matches, &subject);
        check_subject(session, rules, &subject);
    }
    rules_report_fini(&report);
    rules_unref(rules);
}

int
main(int argc, char **argv)
{
    struct session session = {.matches = 0};
    uint64_t wanted = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    if (wanted == 0) {
        fprintf(stderr, "usage: rules_search MATCHES [SEED]\n");
        return 2;
    }
    random_state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    INVARIANT(!rules_scratch_create(&session.scratch) && !regex_scratch_create(&session.regex));
    index_scratch_init(&session.index);
    while (session.indexed < wanted) {
        check_set(&session);
    }
    printf("%" PRIu64 " matches, %" PRIu64 " of rules in the index, in %" PRIu64 " subjects; %" PRIu64
           " came to a limit\n",
           session.matches, session.indexed, session.subjects, session.limits);
    index_scratch_fini(&session.index);
    regex_scratch_destroy(session.regex);
    rules_scratch_destroy(session.scratch);
    INVARIANT(mem_live() == 0);
    return 0;
}
