#include "dialect.h"

#include "harness.h"

static void
fini_dialect(struct dialect *dialect)
{
    dialect_fini(dialect);
}

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

#define DIALECT(name)                                                                              \
    CLEANUP(fini_dialect) struct dialect name;                                                     \
    dialect_init(&name)

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

static void
check_text(const char *rule, const char *wanted)
{
    DIALECT(dialect);
    struct regex_error error = {.message = ""};
    TRY(dialect_translate(&dialect, text(rule), 0, &error));
    CHECK_STRING(buf_string(&dialect.text), wanted);
    CHECK(dialect.options.dotall);
}

static void
check_search(const char *rule, struct slice subject, enum regex_outcome wanted)
{
    DIALECT(dialect);
    CLEANUP(destroy_regex) struct regex *regex = NULL;
    CLEANUP(destroy_scratch) struct regex_scratch *scratch = NULL;
    struct regex_error error = {.message = ""};
    TRY(regex_scratch_create(&scratch));
    TRY(dialect_translate(&dialect, text(rule), 0, &error));
    TRY(dialect_compile(&dialect, &regex, &error));
    if (regex_search(regex, subject, scratch) != wanted) {
        harness_fail(__FILE__, __LINE__, "%s becomes %s, which is wrong for '%.*s'", rule,
                     buf_string(&dialect.text), (int)subject.len, subject.data);
    }
}

#define MATCHES(rule, subject) check_search(rule, text(subject), REGEX_MATCH)
#define DIFFERS(rule, subject) check_search(rule, text(subject), REGEX_NO_MATCH)

/* --- texts --- */

static void
test_plain_rules(void)
{
    check_text("^.*facebook\\.com.*$", "\\A\\N*facebook\\.com\\N*$");
    check_text("^https?://([^/]*\\.)?evil\\.test(:\\d+)?/",
               "\\Ahttps?://(?:[^\\x2f]*\\.)?evil\\.test(?::[0-9]+)?/");
    check_text("", "");
    check_text("a|b|", "a|b|");
    check_text("(a|b)c", "(?:a|b)c");
    check_text("a{2}b{2,}c{,3}d{1,1}e??f++", "a{2}b{2,}c{0,3}d{1}e??f++");
    check_text("(?:ab)+(?:a|b)*(?:)?", "(?:ab)+(?:a|b)*(?:)?");
    check_text("(?>a|b)(?=c)(?!d)(?<=e)(?<!f)", "(?>a|b)(?=c)(?!d)(?<=e)(?<!f)");
}

/* What PCRE2 would read in another way. */
static void
test_differences(void)
{
    check_text("\\Z\\A^$", "\\z\\A\\A$");
    check_text("(?m)^a$", "(?m:^)a(?m:$)");
    check_text("\\v\\x41\\u0042\\101\\0", "\\x0bABA\\x00");
    check_text("a{1, 2}{", "a\\{1,\\x202\\}\\{");
    check_text("[[:alpha:]]", "[\\x3a\\x5bahlp]\\]");
    check_text("[.Ks.]", "[\\x2eKs]");
    check_text(".(?s:.)", "\\N.");
    check_text("\\s(?a:\\s)", "[\\x09-\\x0d\\x1c-\\x20][\\x09-\\x0d\\x20]");
    check_text("a{0}?(?:a|^){0}+b", "b");
    check_text("a{2,70000}?", "a{2,}?");
}

static void
test_groups(void)
{
    /* Only what is referred to captures, and is numbered anew. */
    check_text("(a)(?P<n>b)(c)(?P=n)\\3", "a(b)(c)\\g{1}\\g{2}");
    check_text("(a)(?(1)b|c)", "(a)(?(1)b|c)");
    check_text("(?(2)a|b)(c)(d)", "(?(1)a|b)c(d)");
    check_text("(?:(?(1)(?:a|b)))?(c)", "(?(1)(?:a|b)|)?(c)");
    check_text("((((((((((a))))))))))(b)\\119", "a(b)\\g{1}9");
    check_text("((a)+)*", "(?:a+)*");
    check_text("(a){0}\\1", "(?:(?!)(a)|)\\g{1}");
}

static void
test_case(void)
{
    static const struct {
        const char *rule, *text;
        bool caseless;
    } cases[] = {
        {"(?i)evil1", "evil1", true},
        {"(?i)e[a-c]", "e[A-Ca-c]", true},
        {"(?i)1", "1", false},
        {"(?i:a)b", "[aA]b", false},
        {"(?i:(a)\\1)b", "([aA])(?i:\\g{1})b", false},
        {"(?i)(a)\\1", "(a)\\g{1}", true},
        {"(?i)a(?-i:[bc])", "[aA][bc]", false},
        {"[eE]x[Aa]", "[eE]x[aA]", false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        DIALECT(dialect);
        struct regex_error error;
        TRY(dialect_translate(&dialect, text(cases[i].rule), 0, &error));
        CHECK_STRING(buf_string(&dialect.text), cases[i].text);
        CHECK_INT(dialect.options.caseless, cases[i].caseless);
    }
}

/* --- decisions --- */

static void
test_decisions(void)
{
    MATCHES("(?i)EVIL\\.test", "http://Evil.Test/");
    DIFFERS("(?i:E)VIL", "evil");
    MATCHES("a\\Z", "a");
    DIFFERS("a\\Z", "a\n");
    MATCHES("a$", "a\n");
    DIFFERS("^b", "a\nb");
    MATCHES("(?m)^b", "a\nb");
    MATCHES("(?m)^$", "a\n\n");
    MATCHES("(?m)a\n^", "a\n");
    DIFFERS("a.b", "a\nb");
    MATCHES("(?s)a.b", "a\nb");
    MATCHES("[^a]", "\n");
    MATCHES("x{,2}y{1, 2}", "y{1, 2}");
    DIFFERS("^x{,2}$", "xxx");
    MATCHES("^[[:alpha:]]$", "h]");
    MATCHES("\\0119", "\t9");
    MATCHES("(?(1)a|b)(c)?", "b");
    MATCHES("\\s", "\x1d");
    DIFFERS("(?a)\\s", "\x1d");
    DIFFERS("[\xc3\xa9]{2}", "\xc3\xa9");
    MATCHES("[^\xc3\xa9]", "a");
    check_search("a\\0b", SLICE_LITERAL("a\0b"), REGEX_MATCH);
    check_search("", (struct slice){NULL, 0}, REGEX_MATCH);
}

/* PCRE2 finds no match in these without the options that the translation asks for. */
static void
test_errors_of_pcre2(void)
{
    MATCHES("1+(?:x)?+1", "11");
    MATCHES("1+(?:xy)?+1", "11");
    MATCHES("1+(?>(?:xy)?)1", "11");
    MATCHES("(a|^){0}+b", "ab");
    MATCHES("(a|^){0}(?:b|\\1)", "ab");
    DIFFERS("(a){0}\\1", "aa");
}

static void
test_large_repeats(void)
{
    char subject[300];
    memset(subject, 'a', sizeof subject);
    check_search("^(?:ab?){3,4294967294}$", (struct slice){subject, sizeof subject}, REGEX_MATCH);
    MATCHES("a{2,70000}", "aa");
}

/* --- refusals --- */

static void
check_refused(struct slice rule, size_t position, const char *message)
{
    DIALECT(dialect);
    struct regex *regex = NULL;
    struct regex_error error = {.position = 99999, .message = ""};
    enum err err = dialect_translate(&dialect, rule, 0, &error);
    if (!err) {
        err = dialect_compile(&dialect, &regex, &error);
    }
    regex_destroy(regex);
    if (!harness_struck()) {
        CHECK(err == ERR_INVALID);
        CHECK_INT(error.position, (long long)position);
        CHECK(strstr(error.message, message) != NULL);
    }
}

static void
test_refused(void)
{
    check_refused(text("a(b"), 1, "missing ), unterminated subpattern");
    check_refused(text("ab\\N{DIGIT ONE}"), 2, "not supported");
    check_refused(text("ab{65536}"), 1, "more than 65535 times");
    /* PCRE2's own refusals, at the place in the rule and not in its translation. */
    check_refused(text("(?i:abc)[.]ab(?<=(?=a)*)c"), 13, "lookbehind");
    check_refused(text("^.(?:abcdefgh){60000}"), 12, "too large");
}

static void
test_too_large(void)
{
    static char rule[PATTERN_BYTES_MAX];
    for (size_t i = 0; i + 1 < sizeof rule; i += 2) {
        memcpy(rule + i, "\\W", 2);
    }
    check_refused((struct slice){rule, sizeof rule - 1}, 0, "too large");
}

static void
test_depth(void)
{
    /* As deep as a pattern may be, with everything that takes brackets in PCRE2's text too. */
    CLEANUP(buf_fini) struct buf rule;
    buf_init(&rule, 4096);
    for (int i = 0; i < PATTERN_DEPTH_MAX - 1; i++) {
        TRY(buf_append_string(&rule, "(?=b|a"));
    }
    for (int i = 0; i < PATTERN_DEPTH_MAX - 1; i++) {
        TRY(buf_append_string(&rule, ")?"));
    }
    TRY(buf_append_string(&rule, "()"));
    DIALECT(dialect);
    CLEANUP(destroy_regex) struct regex *regex = NULL;
    struct regex_error error;
    TRY(dialect_translate(&dialect, buf_slice(&rule), 0, &error));
    TRY(dialect_compile(&dialect, &regex, &error));
}

TESTS(TEST(plain_rules), TEST(differences), TEST(groups), TEST(case), TEST(decisions),
      TEST(errors_of_pcre2), TEST(large_repeats), TEST(refused), TEST(too_large), TEST(depth))
