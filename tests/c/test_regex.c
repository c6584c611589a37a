#include "regex.h"

#include "harness.h"

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

static const struct regex_options as_is = {.caseless = false};

static void
destroy_regex(struct regex **regex)
{
    regex_destroy(*regex);
}

static void
destroy_scratch(struct regex_scratch **scratch)
{
    regex_scratch_destroy(*scratch);
}

/* A pattern and a scratch of the test's own. */
#define REGEX(name) CLEANUP(destroy_regex) struct regex *name = NULL
#define SCRATCH(name)                                                                              \
    CLEANUP(destroy_scratch) struct regex_scratch *name = NULL;                                    \
    TRY(regex_scratch_create(&name))

static void
test_search(void)
{
    static const struct {
        const char *pattern, *subject;
        bool matches;
    } cases[] = {
        {"^.*facebook\\.com.*$", "https://www.facebook.com/x", true},
        {"^.*facebook\\.com.*$", "https://www.example.com/", false},
        {"admin", "http://evil.test/admin/x", true},
        {"^admin", "http://evil.test/admin", false},
        {"^https?://([^/]*\\.)?evil\\.test(:\\d+)?/", "https://a.b.evil.test:8443/", true},
        {"^https?://([^/]*\\.)?evil\\.test(:\\d+)?/", "https://notevil.test/", false},
        {"^https?://([^/]*\\.)?evil\\.test(:\\d+)?/", "https://evil.test.good.test/", false},
        {"(?i)EVIL", "http://evil.test/", true},
        {"EVIL", "http://evil.test/", false},
        {"(?<=ads\\.)example", "http://ads.example/", true},
        {"(?P<a>x)(?P=a)", "yxxy", true},
        {"(?!)", "anything", false},
        {"", "", true},
        {"", "anything", true},
        {"x", "", false},
        {"a$", "a\n", true},
        {"a.b", "a\nb", false},
        {"a.b", "a\rb", true}, /* only LF ends a line, whatever the library was built with */
        {"^b", "a\rb", false},
        {"(?m)^b", "a\nb", true},
    };
    SCRATCH(scratch);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        REGEX(regex);
        struct regex_error error;
        TRY(regex_compile(text(cases[i].pattern), &as_is, &regex, &error));
        CHECK_INT(regex_search(regex, text(cases[i].subject), scratch),
                  cases[i].matches ? REGEX_MATCH : REGEX_NO_MATCH);
    }
}

static void
test_search_range(void)
{
    static const struct {
        const char *pattern;
        size_t first, count;
        bool matches;
    } cases[] = {
        {"b", 0, 2, false}, {"b", 0, 3, true}, {"b", 2, 1, true}, {"b", 3, 1, false}, {"b", 3, 2, false},
        {"b", 3, 3, true},  {"b", 6, 9, false}, {"aab", 0, 1, true}, {"aab", 1, 2, false}, {"(?<=a)b", 2, 1, true},
        {"^", 0, 1, true},  {"^", 1, 6, false}, {"$", 6, 1, true}, {"$", 5, 1, false}, {"$", 5, 2, true},
    };
    static const struct regex_options by_range = {.by_range = true};
    SCRATCH(scratch);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        REGEX(regex);
        struct regex_error error;
        TRY(regex_compile(text(cases[i].pattern), &by_range, &regex, &error));
        CHECK_INT(regex_search_range(regex, text("aabaab"), cases[i].first, cases[i].count, REGEX_FULL, scratch),
                  cases[i].matches ? REGEX_MATCH : REGEX_NO_MATCH);
        /* And nothing of it stays in the scratch. */
        CHECK_INT(regex_search(regex, text("aabaab"), scratch), REGEX_MATCH);
    }
}

static void
test_bytes(void)
{
    REGEX(any);
    REGEX(nul);
    REGEX(empty);
    struct regex_error error;
    SCRATCH(scratch);
    TRY(regex_compile(text("^.$"), &as_is, &any, &error));
    TRY(regex_compile(SLICE_LITERAL("a\0b"), &as_is, &nul, &error));
    TRY(regex_compile((struct slice){NULL, 0}, &as_is, &empty, &error));
    CHECK_INT(regex_search(any, text("\xff"), scratch), REGEX_MATCH);
    CHECK_INT(regex_search(any, text("\xc3\xa9"), scratch), REGEX_NO_MATCH);
    CHECK_INT(regex_search(nul, SLICE_LITERAL("xa\0bx"), scratch), REGEX_MATCH);
    CHECK_INT(regex_search(nul, text("xa"), scratch), REGEX_NO_MATCH);
    CHECK_INT(regex_search(empty, (struct slice){NULL, 0}, scratch), REGEX_MATCH);
}

static void
test_refused(void)
{
    static const struct {
        const char *pattern;
        size_t position;
    } cases[] = {
        {"a(", 2}, {"a)", 1}, {"[a", 2}, {"*a", 0}, {"(?P=x)", 4}, {"(?<n", 4}, {"a\\", 2},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct regex *regex = NULL;
        struct regex_error error = {.position = 99};
        enum err err = regex_compile(text(cases[i].pattern), &as_is, &regex, &error);
        CHECK(err == ERR_INVALID);
        CHECK(regex == NULL);
        CHECK_INT(error.position, cases[i].position);
        CHECK(strlen(error.message) > 5 && strchr(error.message, '\n') == NULL);
    }
}

/* A pattern that could leave byte mode, or cut a character in two. */
static void
test_refuses_utf(void)
{
    static const char *const patterns[] = {"(*UTF)a", "(*UTF8)a", "(*UCP)a", "\\C"};
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        struct regex *regex = NULL;
        struct regex_error error;
        enum err err = regex_compile(text(patterns[i]), &as_is, &regex, &error);
        CHECK(err == ERR_INVALID);
        CHECK(regex == NULL);
    }
}

static void
test_too_large(void)
{
    enum { COUNT = 40000 };
    static char pattern[COUNT + 1];
    struct regex *regex = NULL;
    struct regex_error error;
    for (size_t i = 0; i + 1 < COUNT; i += 2) {
        memcpy(pattern + i, "a|", 2);
    }
    enum err err = regex_compile(text(pattern), &as_is, &regex, &error);
    CHECK(err == ERR_INVALID);
    regex_destroy(regex);
}

/* Exponential without a limit; with it, an answer that is not "no". */
static void
test_limit(void)
{
    static const char *const patterns[] = {"(a|a)*[#%]", "(?:aa?){40}[#%]", "^(\\w+\\w+)+[#%]$"};
    char subject[2001] = "";
    struct regex_error error;
    SCRATCH(scratch);
    memset(subject, 'a', sizeof subject - 2);
    subject[sizeof subject - 2] = '!';
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        REGEX(regex);
        TRY(regex_compile(text(patterns[i]), &as_is, &regex, &error));
        double since = harness_seconds();
        CHECK(regex_search(regex, text(subject), scratch) != REGEX_MATCH);
        CHECK(harness_seconds() - since < 5);
    }
    REGEX(worst);
    TRY(regex_compile(text("^(a|aa)+$"), &as_is, &worst, &error));
    CHECK_INT(regex_search(worst, text(subject), scratch), REGEX_LIMIT);
    /* Tens of thousands of ways to fail: beyond our limit, far below PCRE2's own. */
    CHECK_INT(regex_search(worst, text("aaaaaaaaaaaaaaaaaaaaaaaa!"), scratch), REGEX_LIMIT);
}

/* What JIT's 32 kB would not hold: a limit here would block half of the web. */
static void
test_deep_but_harmless(void)
{
    static const char *const patterns[] = {"^(?:[a-z]|x)+$", "((a|b)/?)*$", "^.*a.*$", "a*b"};
    static char subject[8001];
    struct regex_error error;
    SCRATCH(scratch);
    memset(subject, 'a', sizeof subject - 1);
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        REGEX(regex);
        TRY(regex_compile(text(patterns[i]), &as_is, &regex, &error));
        CHECK(regex_search(regex, (struct slice){subject, 2000}, scratch) != REGEX_LIMIT);
    }
    REGEX(domain);
    TRY(regex_compile(text("^.*facebook\\.com.*$"), &as_is, &domain, &error));
    CHECK_INT(regex_search(domain, text(subject), scratch), REGEX_NO_MATCH);
}

/* After a limit the scratch is as good as new. */
static void
test_scratch_after_a_limit(void)
{
    REGEX(worst);
    REGEX(plain);
    char subject[60] = "";
    struct regex_error error;
    SCRATCH(scratch);
    memset(subject, 'a', sizeof subject - 2);
    subject[sizeof subject - 2] = '!';
    TRY(regex_compile(text("^(a|aa)+$"), &as_is, &worst, &error));
    TRY(regex_compile(text("a!"), &as_is, &plain, &error));
    for (int i = 0; i < 3; i++) {
        CHECK_INT(regex_search(worst, text(subject), scratch), REGEX_LIMIT);
        CHECK_INT(regex_search(plain, text(subject), scratch), REGEX_MATCH);
    }
}

static void
test_destroy_nothing(void)
{
    regex_destroy(NULL);
    regex_scratch_destroy(NULL);
}

static void
test_library_version(void)
{
    CHECK(strncmp(regex_library_version(), "10.", 3) == 0);
}

TESTS(TEST(search), TEST(search_range), TEST(bytes), TEST(refused), TEST(refuses_utf), TEST(too_large), TEST(limit),
      TEST(deep_but_harmless), TEST(scratch_after_a_limit), TEST(destroy_nothing),
      TEST(library_version))
