#include "pattern.h"

#include "buf.h"
#include "harness.h"

#define DUMP_MAX 4096

/* --- the tree in words --- */

static void
destroy_pattern(struct pattern *pattern)
{
    pattern_fini(pattern);
}

#define PATTERN(name)                                                                              \
    CLEANUP(destroy_pattern) struct pattern name;                                                  \
    pattern_init(&name)

static const char *
kind_text(const struct pattern_node *node)
{
    static const char *const names[] = {
        [PATTERN_EMPTY] = "empty",       [PATTERN_BYTE] = "byte",
        [PATTERN_CLASS] = "class",       [PATTERN_BEGIN] = "begin",
        [PATTERN_LINE_BEGIN] = "bol",    [PATTERN_END] = "end",
        [PATTERN_LINE_END] = "eol",      [PATTERN_VERY_END] = "very-end",
        [PATTERN_BOUNDARY] = "boundary", [PATTERN_NOT_BOUNDARY] = "not-boundary",
        [PATTERN_CONCAT] = "cat",        [PATTERN_ALTERNATE] = "or",
        [PATTERN_REPEAT] = "repeat",     [PATTERN_CAPTURE] = "capture",
        [PATTERN_ATOMIC] = "atomic",     [PATTERN_LOOK] = "look",
        [PATTERN_BACKREF] = "backref",   [PATTERN_CONDITIONAL] = "if",
    };
    return names[node->kind];
}

static enum err
dump_set(const struct pattern_set *set, struct buf *out)
{
    enum err err = buf_append_string(out, "[");
    for (unsigned low = 0, high; low < 256 && !err; low = high + 1) {
        high = low;
        if (!pattern_set_has(set, (unsigned char)low)) {
            continue;
        }
        while (high < 255 && pattern_set_has(set, (unsigned char)(high + 1))) {
            high++;
        }
        err = low == high ? buf_append_format(out, " %02x", low)
                          : buf_append_format(out, " %02x-%02x", low, high);
    }
    return err ? err : buf_append_string(out, " ]");
}

static enum err
dump_details(const struct pattern *pattern, const struct pattern_node *node, struct buf *out)
{
    static const char *const greeds[] = {"", " lazy", " possessive"};
    switch (node->kind) {
    case PATTERN_CLASS:
        return dump_set(pattern_set(pattern, node), out);
    case PATTERN_REPEAT:
        return buf_append_format(out, " %u %d%s", node->min, (int)node->max, greeds[node->greed]);
    case PATTERN_CAPTURE:
    case PATTERN_CONDITIONAL:
        return buf_append_format(out, " %u", node->group);
    case PATTERN_BACKREF:
        return buf_append_format(out, " %u%s", node->group, node->caseless ? " caseless" : "");
    case PATTERN_LOOK:
        return buf_append_format(out, "%s%s", node->behind ? " behind" : "",
                                 node->negative ? " not" : "");
    default:
        return ERR_OK;
    }
}

/* A byte is 'c', or "c" if it is caseless; all else is (kind details children). */
static enum err
dump(const struct pattern *pattern, uint32_t index, struct buf *out)
{
    const struct pattern_node *node = pattern_node(pattern, index);
    if (node->kind == PATTERN_BYTE) {
        char quote = node->caseless ? '"' : '\'';
        bool shown = node->byte > ' ' && node->byte < 0x7f;
        return buf_append_format(out, shown ? "%c%c%c" : "%c\\x%02x%c", quote, node->byte, quote);
    }
    enum err err = buf_append_format(out, "(%s", kind_text(node));
    if (!err) {
        err = dump_details(pattern, node, out);
    }
    for (uint32_t i = node->child; i != 0 && !err; i = pattern_node(pattern, i)->next) {
        err = buf_append_string(out, " ");
        if (!err) {
            err = dump(pattern, i, out);
        }
    }
    return err ? err : buf_append_string(out, ")");
}

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

static void
check_tree(const char *rule, unsigned flags, const char *wanted)
{
    PATTERN(pattern);
    CLEANUP(buf_fini) struct buf out;
    buf_init(&out, DUMP_MAX);
    struct regex_error error = {.message = ""};
    TRY(pattern_parse(&pattern, text(rule), flags, &error));
    TRY(dump(&pattern, pattern.root, &out));
    CHECK_STRING(buf_string(&out), wanted);
}

#define TREE(rule, wanted) check_tree(rule, 0, wanted)

/* --- what is accepted --- */

static void
test_sequences(void)
{
    TREE("", "(empty)");
    TREE("a", "'a'");
    TREE("ab", "(cat 'a' 'b')");
    TREE("a|bc|", "(or 'a' (cat 'b' 'c') (empty))");
    TREE("(?:ab)c", "(cat (cat 'a' 'b') 'c')");
    TREE("(a)(?P<x>b)\\2(?P=x)\\1",
         "(cat (capture 1 'a') (capture 2 'b') (backref 2) (backref 2) (backref 1))");
    TREE("()", "(capture 1 (empty))");
    TREE("(?>a)(?=b)(?!c)(?<=d)(?<!e)",
         "(cat (atomic 'a') (look 'b') (look not 'c') (look behind 'd') (look behind not 'e'))");
    TREE("(a)(?(1)b|c)(?(1)d)", "(cat (capture 1 'a') (if 1 'b' 'c') (if 1 'd' (empty)))");
    TREE("(?(1)a|b)(c)", "(cat (if 1 'a' 'b') (capture 1 'c'))");
    TREE("(?<=a)(b)\\1", "(cat (look behind 'a') (capture 1 'b') (backref 1))");
    TREE("(a)(?<=\\1)", "(cat (capture 1 'a') (look behind (backref 1)))");
    TREE("a(?#b\\)c)d", "(cat 'a' 'd')");
    TREE("a]}-", "(cat 'a' ']' '}' '-')");
}

static void
test_anchors(void)
{
    TREE("^$\\A\\Z\\b\\B", "(cat (begin) (end) (begin) (very-end) (boundary) (not-boundary))");
    TREE("(?m)^$\\A\\Z", "(cat (bol) (eol) (begin) (very-end))");
    TREE("(?m:^)^", "(cat (bol) (begin))");
}

static void
test_repeats(void)
{
    TREE("a*b+c?", "(cat (repeat 0 -1 'a') (repeat 1 -1 'b') (repeat 0 1 'c'))");
    TREE("a*?b++c{2}d{,3}?e{4,}+",
         "(cat (repeat 0 -1 lazy 'a') (repeat 1 -1 possessive 'b') (repeat 2 2 'c')"
         " (repeat 0 3 lazy 'd') (repeat 4 -1 possessive 'e'))");
    TREE("a{,}", "(repeat 0 -1 'a')");
    TREE("a{1, 2}", "(cat 'a' '{' '1' ',' '\\x20' '2' '}')");
    TREE("a{x}{}", "(cat 'a' '{' 'x' '}' '{' '}')");
    TREE("{a", "(cat '{' 'a')");
    TREE("a{1", "(cat 'a' '{' '1')");
    TREE("(?:^)*(?:a+)+", "(cat (repeat 0 -1 (begin)) (repeat 1 -1 (repeat 1 -1 'a')))");
    TREE("a(?#c)+", "(repeat 1 -1 'a')");
    TREE("(?=a)+", "(repeat 1 -1 (look 'a'))");
    TREE("a{4294967294}", "(repeat 4294967294 -2 'a')");
}

static void
test_escapes(void)
{
    TREE("\\a\\f\\n\\r\\t\\v", "(cat '\\x07' '\\x0c' '\\x0a' '\\x0d' '\\x09' '\\x0b')");
    TREE("\\.\\-\\ \\/", "(cat '.' '-' '\\x20' '/')");
    TREE("\\x41\\u0042\\U00000043\\0\\07\\101\\0101",
         "(cat 'A' 'B' 'C' '\\x00' '\\x07' 'A' '\\x08' '1')");
    TREE("\\d\\D", "(cat (class[ 30-39 ]) (class[ 00-2f 3a-ff ]))");
    TREE("\\s", "(class[ 09-0d 1c-20 ])");
    TREE("(?a)\\s\\w", "(cat (class[ 09-0d 20 ]) (class[ 30-39 41-5a 5f 61-7a ]))");
    TREE("(?a)(?u:\\s)", "(class[ 09-0d 1c-20 ])");
    TREE("\\W", "(class[ 00-2f 3a-40 5b-5e 60 7b-7f ])");
    TREE("(((((((((((a)))))))))))\\119",
         "(cat (capture 1 (capture 2 (capture 3 (capture 4 (capture 5 (capture 6 (capture 7"
         " (capture 8 (capture 9 (capture 10 (capture 11 'a'))))))))))) (backref 11) '9')");
}

static void
test_classes(void)
{
    TREE("[abd-f]", "(class[ 61-62 64-66 ])");
    TREE("[^a-y]", "(class[ 00-60 7a-ff ])");
    TREE("[.]", "'.'");
    TREE("[]a][^]a]", "(cat (class[ 5d 61 ]) (class[ 00-5c 5e-60 62-ff ]))");
    TREE("[a-][-a]", "(cat (class[ 2d 61 ]) (class[ 2d 61 ]))");
    TREE("[+--]", "(class[ 2b-2d ])");
    TREE("[[:alpha:]]", "(cat (class[ 3a 5b 61 68 6c 70 ]) ']')");
    TREE("[\\d\\b\\]\\\\\\x41\\101\\v]", "(class[ 08 0b 30-39 41 5c-5d ])");
    TREE("[\\d-]", "(class[ 2d 30-39 ])");
    TREE(".(?s:.)", "(cat (class[ 00-09 0b-ff ]) (class[ 00-ff ]))");
}

/* The case of bytes and sets is settled while parsing. */
static void
test_caseless(void)
{
    TREE("(?i)aB1", "(cat \"a\" \"B\" '1')");
    TREE("a(?i:b(?-i:c))", "(cat 'a' (cat \"b\" 'c'))");
    TREE("(?i)[a-c][^x]", "(cat (class[ 41-43 61-63 ]) (class[ 00-57 59-77 79-ff ]))");
    TREE("[fF]", "\"f\"");
    TREE("(?i)(a)\\1", "(cat (capture 1 \"a\") (backref 1 caseless))");
    check_tree("a", PATTERN_IGNORECASE, "\"a\"");
    /* The Kelvin sign is a k, the dotless i an i, the long s an s. */
    TREE("(?i)\xe2\x84\xaa", "(or (cat '\\xe2' '\\x84' '\\xaa') \"k\")");
    TREE("(?i)[^\xc4\xb1\xc5\xbf]", "(class[ 00-48 4a-52 54-68 6a-72 74-ff ])");
    TREE("(?ai)\xe2\x84\xaa", "(cat '\\xe2' '\\x84' '\\xaa')");
}

static void
test_verbose(void)
{
    TREE("(?x) a b # c\n d", "(cat 'a' 'b' 'd')");
    TREE("(?x)a +", "(repeat 1 -1 'a')");
    TREE("(?x)[ #]\\ \\#", "(cat (class[ 20 23 ]) '\\x20' '#')");
    TREE("(?x: a (?-x: ))b ", "(cat (cat 'a' '\\x20') 'b' '\\x20')");
    TREE("(?x)a#\\\nb\nc", "(cat 'a' 'c')");
    check_tree(" (?i) a", PATTERN_VERBOSE, "\"a\"");
}

static void
test_beyond_ascii(void)
{
    TREE("\xc3\xa9+", "(repeat 1 -1 (cat '\\xc3' '\\xa9'))");
    TREE("\\u20ac\\U0001f600",
         "(cat (cat '\\xe2' '\\x82' '\\xac') (cat '\\xf0' '\\x9f' '\\x98' '\\x80'))");
    TREE("[\xc3\xa9]", "(cat '\\xc3' '\\xa9')");
    TREE("[a\xc3\xa9]", "(or (cat '\\xc3' '\\xa9') 'a')");
    TREE("[^\xc3\xa9z]", "(class[ 00-79 7b-ff ])");
    TREE("[y-\\u0101]", "(or (cat (class[ c2-c3 ]) (class[ 80-bf ])) (cat '\\xc4' (class[ 80-81 "
                        "])) (class[ 79-7f ]))");
    /* Not UTF-8: each byte is a character. */
    TREE("\xff\xc3", "(cat (cat '\\xc3' '\\xbf') (cat '\\xc3' '\\x83'))");
}

static void
test_positions(void)
{
    PATTERN(pattern);
    struct regex_error error;
    TRY(pattern_parse(&pattern, text("ab(c|de){2}$"), 0, &error));
    const struct pattern_node *node = pattern_node(&pattern, pattern.root);
    static const struct {
        enum pattern_kind kind;
        uint32_t position;
    } wanted[] = {{PATTERN_BYTE, 0}, {PATTERN_BYTE, 1}, {PATTERN_REPEAT, 2}, {PATTERN_END, 11}};
    uint32_t child = node->child;
    for (size_t i = 0; i < COUNT_OF(wanted); i++, child = node->next) {
        REQUIRE(child != 0);
        node = pattern_node(&pattern, child);
        CHECK_INT(node->kind, wanted[i].kind);
        CHECK_INT(node->position, wanted[i].position);
    }
    CHECK_INT(child, 0);
    CHECK_INT(pattern.group_count, 1);
}

/* One struct for one rule after the other, whatever became of the one before. */
static void
test_reuse(void)
{
    PATTERN(pattern);
    CLEANUP(buf_fini) struct buf out;
    buf_init(&out, DUMP_MAX);
    struct regex_error error;
    TRY(pattern_parse(&pattern, text("(?i)(a)[b-d]\\1{2,}"), 0, &error));
    CHECK(pattern_parse(&pattern, text("(x)(y)[a"), 0, &error) == ERR_INVALID);
    TRY(pattern_parse(&pattern, text("(?P<n>[x-z])"), 0, &error));
    TRY(dump(&pattern, pattern.root, &out));
    CHECK_STRING(buf_string(&out), "(capture 1 (class[ 78-7a ]))");
    CHECK_INT(pattern.group_count, 1);
    CHECK_INT(pattern.set_count, 1);
}

/* --- what is refused --- */

static void
check_refused(struct slice rule, size_t position, const char *message)
{
    PATTERN(pattern);
    struct regex_error error = {.position = 99999, .message = ""};
    enum err err = pattern_parse(&pattern, rule, 0, &error);
    if (harness_struck()) {
        return;
    }
    CHECK(err == ERR_INVALID);
    CHECK_STRING(error.message, message);
    CHECK_INT(error.position, (long long)position);
}

static void
test_refused_as_python_does(void)
{
    static const struct {
        const char *rule;
        size_t position;
        const char *message;
    } cases[] = {
        {"a(", 1, "missing ), unterminated subpattern"},
        {"a)", 1, "unbalanced parenthesis"},
        {"a[b", 1, "unterminated character set"},
        {"[]", 0, "unterminated character set"},
        {"[b-a]", 1, "bad character range b-a"},
        {"[\\d-z]", 1, "bad character range \\d-z"},
        {"*a", 0, "nothing to repeat"},
        {"a|*", 2, "nothing to repeat"},
        {"^*", 1, "nothing to repeat"},
        {"(?i)+", 4, "nothing to repeat"},
        {"a**", 2, "multiple repeat"},
        {"a{2}{3}", 4, "multiple repeat"},
        {"(?x)a+ ?", 7, "multiple repeat"},
        {"a{3,2}", 2, "min repeat greater than max repeat"},
        {"a{4294967295}", 2, "the repetition number is too large"},
        {"a{99999999999999999999,}", 2, "the repetition number is too large"},
        {"a\\", 1, "bad escape (end of pattern)"},
        {"\\q", 0, "bad escape \\q"},
        {"\\z", 0, "bad escape \\z"},
        {"\\Qa\\E", 0, "bad escape \\Q"},
        {"[\\Z]", 1, "bad escape \\Z"},
        {"[\\8]", 1, "bad escape \\8"},
        {"\\x4g", 0, "incomplete escape \\x4"},
        {"\\u123", 0, "incomplete escape \\u123"},
        {"\\U00110000", 0, "bad escape \\U00110000"},
        {"\\400", 0, "octal escape value \\400 outside of range 0-0o377"},
        {"(a)\\2", 4, "invalid group reference 2"},
        {"(a\\1)", 2, "cannot refer to an open group"},
        {"(?P<n>(?P=n))", 10, "cannot refer to an open group"},
        {"(?P=n)", 4, "unknown group name 'n'"},
        {"(?P<n>a)(?P<n>b)", 12, "redefinition of group name 'n' as group 2; was group 1"},
        {"(?P<1n>a)", 4, "bad character in group name '1n'"},
        {"(?P<>a)", 4, "missing group name"},
        {"(?P<n", 4, "missing >, unterminated name"},
        {"(?Px)", 1, "unknown extension ?Px"},
        {"(?<n>a)", 1, "unknown extension ?<n"},
        {"(?R)", 1, "unknown extension ?R"},
        {"(?", 2, "unexpected end of pattern"},
        {"(?P", 3, "unexpected end of pattern"},
        {"(?<", 3, "unexpected end of pattern"},
        {"(?#a", 0, "missing ), unterminated comment"},
        {"(?(2)a)(b)", 3, "invalid group reference 2"},
        {"(?(0)a)", 3, "bad group number"},
        {"(?(1x)a)", 3, "bad character in group name '1x'"},
        {"(a)(?(1)b|c|d)", 11, "conditional backref with more than two branches"},
        {"a(?i)", 1, "global flags not at the start of the expression"},
        {"(?a)(?u)", 8, "ASCII and UNICODE flags are incompatible"},
        {"(?au)", 4, "bad inline flags: flags 'a', 'u' and 'L' are incompatible"},
        {"(?L)", 3, "bad inline flags: cannot use 'L' flag with a str pattern"},
        {"(?i-i:a)", 5, "bad inline flags: flag turned on and off"},
        {"(?-a:a)", 4, "bad inline flags: cannot turn off flags 'a', 'u' and 'L'"},
        {"(?iz)", 3, "unknown flag"},
        {"(?i", 3, "missing -, : or )"},
        {"(?i-", 4, "missing flag"},
        {"(?i-s)", 5, "missing :"},
        {"(?<=a+)", 0, "look-behind requires fixed-width pattern"},
        {"(?<=a|bc)", 0, "look-behind requires fixed-width pattern"},
        {"(?<=a*)[", 7, "unterminated character set"},
        {"(?<=(a)\\1)", 9, "cannot refer to group defined in the same lookbehind subpattern"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        check_refused(text(cases[i].rule), cases[i].position, cases[i].message);
    }
}

static void
test_message_is_one_line(void)
{
    check_refused(text("(?P<a\nb\xc3\xa9 >c)"), 4, "bad character in group name 'a?b?? '");
    check_refused(SLICE_LITERAL("(?\x7f"), 1, "unknown extension ??");
}

static void
test_maxima(void)
{
    static char rule[PATTERN_BYTES_MAX + 1];
    memset(rule, 'a', sizeof rule);
    PATTERN(pattern);
    struct regex_error error;
    TRY(pattern_parse(&pattern, (struct slice){rule, PATTERN_BYTES_MAX}, 0, &error));
    check_refused((struct slice){rule, sizeof rule}, PATTERN_BYTES_MAX, "longer than 65535 bytes");

    memset(rule, '(', PATTERN_DEPTH_MAX + 1);
    memset(rule + PATTERN_DEPTH_MAX + 1, ')', PATTERN_DEPTH_MAX + 1);
    check_refused((struct slice){rule, 2 * PATTERN_DEPTH_MAX + 2}, PATTERN_DEPTH_MAX,
                  "more than 100 brackets within each other");
    TRY(pattern_parse(&pattern, (struct slice){rule + 1, 2 * PATTERN_DEPTH_MAX}, 0, &error));
    CHECK_INT(pattern.group_count, PATTERN_DEPTH_MAX);

    /* Side by side there may be more. */
    for (size_t i = 0; i < 1000; i++) {
        memcpy(rule + 2 * i, "()", 2);
    }
    TRY(pattern_parse(&pattern, (struct slice){rule, 2000}, 0, &error));
    CHECK_INT(pattern.group_count, 1000);
}

TESTS(TEST(sequences), TEST(anchors), TEST(repeats), TEST(escapes), TEST(classes), TEST(caseless),
      TEST(verbose), TEST(beyond_ascii), TEST(positions), TEST(reuse), TEST(refused_as_python_does),
      TEST(message_is_one_line), TEST(maxima))
