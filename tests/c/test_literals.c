#include "literals.h"

#include "harness.h"

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

#define PATTERN(name)                                                                              \
    CLEANUP(pattern_fini) struct pattern name;                                                     \
    pattern_init(&name)

static enum err
find(struct pattern *pattern, const char *rule, struct literals *literals)
{
    struct regex_error error;
    enum err err = pattern_parse(pattern, text(rule), 0, &error);
    if (!err) {
        literals_find(pattern, literals);
    }
    return err;
}

/* "a b" for a set of two texts. */
static const char *
joined(const struct literal_set *set)
{
    static char all[LITERALS_SET_MAX * (LITERALS_TEXT_MAX + 1) + 1];
    size_t len = 0;
    all[0] = '\0';
    for (unsigned i = 0; i < set->count; i++) {
        len += (size_t)snprintf(all + len, sizeof all - len, "%s%.*s", i > 0 ? " " : "", set->len[i],
                                set->text[i]);
    }
    return all;
}

static void
test_best(void)
{
    static const struct {
        const char *rule, *best;
    } cases[] = {
        /* the forms that lists are made of */
        {"^.*facebook\\.com.*$", "facebook.com"},
        {"^https?://([^/]*\\.)?evil\\.test(/|$)", "evil.test"},
        {"(?i)Evil\\.TEST", "evil.test"},
        {"^https?://(?:www\\.)?evil\\.test/.*$", "/www.evil.test/ /evil.test/"},
        {"(www\\.)?evil\\.test", "evil.test"},
        {"evil\\.(com|net)", "evil.com evil.net"},
        {"^https?://(?P<sub>[^/]*\\.)?evil\\.test/(?P<path>.*)$", "evil.test/"},
        {"(?<!not-)evil\\.test", "evil.test"},
        {"^(?!.*/allowed/).*evil\\.test", "evil.test"},
        {"/(?:ads?|banners?)/[0-9]+/evil", "/evil"},
        {"https://evil\\.test", "/evil.test"},
        /* groups, repeats, alternatives */
        {"ev(il)te(?:st)", "eviltest"},
        {"evil(?:test)?x", "eviltestx evilx"},
        {"e{3}vil", "eeevil"},
        {"evil(ab){2}", "evilabab"},
        {"(?:evil)+test", "eviltest"},
        {"test(?:evil)+", "testevil"},
        {"quark(?:evil)*zyzzy", "zyzzy"},
        {"(evil|nasty)+", "evil nasty"},
        {"evil[ab]x", "evilax evilbx"},
        {"(?i)evil[a]x", "evilax"},
        {"evil[Aa]x", "evilax"},
        {"(?>evil)x", "evilx"},
        {"(?:evil){0}nasty", "nasty"},
        {"(e)vil(?(1)nasty|x)zq", "evilnastyzq evilxzq"},
        {"(?x) e v i l # comment", "evil"},
        {"\\x65vil", "evil"},
        {"evil\\Z", "evil"},
        {"\\bevil\\b", "evil"},
        /* what makes no text of its own */
        {"evil(?=nasty)", "evil"},
        {"evil(?!nasty)", "evil"},
        {"(evil)x\\1y", "evilx"},
        {"evil.nasty", "nasty"},
        {"evil\\wx", "evil"},
        {"evil[a-z]x", "evil"},
        {"evil\xc3\xa9", "evil"},
        /* nothing to look up */
        {"", ""},
        {".*", ""},
        {"^https?://", ""},
        {"^https?://[^/]{120,}/", ""},
        {"^https?://www\\.", ""},
        {"a", ""},
        {"(evil)?", ""},
        {"(evil)*", ""},
        {"evil|", ""},
        {"evil|.", ""},
        {"(?=evil)", ""},
        {"(?!evil)", ""},
        {"[a-z]{20}", ""},
        {"\xc3\xa9", ""},
        {"[^\\x00-\\x7f]", ""},
    };
    PATTERN(pattern);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct literals literals;
        TRY(find(&pattern, cases[i].rule, &literals));
        CHECK_STRING(joined(&literals.best), cases[i].best);
    }
}

static void
test_second(void)
{
    static const struct {
        const char *rule, *best, *second;
    } cases[] = {
        {"/zqxjkv/.*nasty", "/zqxjkv/", "nasty"},
        {"nasty.*/zqxjkv/", "/zqxjkv/", "nasty"},
        {"/zqxjkv/.*/zqxjkv/", "/zqxjkv/", ""},   /* the same again says no more */
        {"/zqxjkv/.*zqx", "/zqxjkv/", ""},        /* nor does a part of it */
        {"/zqxjkv/.*(nasty|evil)", "/zqxjkv/", "nasty evil"},
        {"/zqxjkv/.*(nasty|evil)?", "/zqxjkv/", ""},
        {"/zqxjkv/(.*nasty)*", "/zqxjkv/", ""},
        {"/zqxjkv/.*[.]com", "/zqxjkv/", ""},     /* which most have */
    };
    PATTERN(pattern);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct literals literals;
        TRY(find(&pattern, cases[i].rule, &literals));
        CHECK_STRING(joined(&literals.best), cases[i].best);
        CHECK_STRING(joined(&literals.second), cases[i].second);
    }
}

/* Past the maxima there are fewer or shorter texts, never wrong ones. */
static void
test_maxima(void)
{
    static const char seventeen[] = "qa|qb|qc|qd|qe|qf|qg|qh|qi|qj|qk|ql|qm|qn|qo|qp|qq";
    char rule[2000];
    struct literals literals;
    PATTERN(pattern);
    snprintf(rule, sizeof rule, "nasty(%s)", seventeen);
    TRY(find(&pattern, rule, &literals));
    CHECK_STRING(joined(&literals.best), "nasty");
    TRY(find(&pattern, seventeen, &literals));
    CHECK_INT(literals.best.count, 0);
    TRY(find(&pattern, "n[ab][cd][ef][gh]y[ab]z", &literals));
    CHECK_INT(literals.best.count, LITERALS_SET_MAX);
    /* A text that is too long is cut where it was built. */
    memset(rule, 'q', 100);
    rule[100] = '\0';
    TRY(find(&pattern, rule, &literals));
    CHECK_INT(literals.best.count, 1);
    CHECK_INT(literals.best.len[0], LITERALS_TEXT_MAX);
    TRY(find(&pattern, "q{4000}", &literals));
    CHECK_INT(literals.best.count, 0);   /* "q" alone */
    TRY(find(&pattern, "(?:zqx){4000}", &literals));
    CHECK_STRING(joined(&literals.best), "zqx");
    /* Deeper than it looks: nothing is known of what is inside. */
    rule[0] = '\0';
    for (int i = 0; i < 60; i++) {
        strcat(rule, "(");
    }
    strcat(rule, "evil");
    for (int i = 0; i < 60; i++) {
        strcat(rule, ")");
    }
    strcat(rule, "nasty");
    TRY(find(&pattern, rule, &literals));
    CHECK_STRING(joined(&literals.best), "nasty");
}

static void
test_packed(void)
{
    uint8_t packed[LITERALS_PACKED_MAX];
    const uint8_t *rest = packed;
    struct literals literals;
    PATTERN(pattern);
    TRY(find(&pattern, "/zqxjkv/.*(nasty|evil)", &literals));
    size_t size = literals_pack(&literals, packed);
    CHECK_INT(literals_take_count(&rest), 1);
    struct slice best = literals_take(&rest);
    CHECK(best.len == 8 && memcmp(best.data, "/zqxjkv/", 8) == 0);
    CHECK_INT(literals_take_count(&rest), 2);
    struct slice first = literals_take(&rest), second = literals_take(&rest);
    CHECK(first.len == 5 && memcmp(first.data, "nasty", 5) == 0);
    CHECK(second.len == 4 && memcmp(second.data, "evil", 4) == 0);
    CHECK_INT(rest - packed, size);
}

/* The rarer of two texts is the one to look up. */
static void
test_rarest_wins(void)
{
    static const struct {
        const char *rule, *best;
    } cases[] = {
        {"index.*zqxjkv", "zqxjkv"},
        {"zqxjkv.*index", "zqxjkv"},
        {"\\.com.*badsite", "badsite"},
        {"www\\..*badsite", "badsite"},
        {"badsite.*ab", "badsite"},
    };
    PATTERN(pattern);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct literals literals;
        TRY(find(&pattern, cases[i].rule, &literals));
        CHECK_STRING(joined(&literals.best), cases[i].best);
    }
}

TESTS(TEST(best), TEST(second), TEST(maxima), TEST(packed), TEST(rarest_wins))
