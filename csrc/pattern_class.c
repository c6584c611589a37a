#include <string.h>

#include "casing.h"
#include "pattern_parse.h"

#define ASCII_END 0x80u

static const struct width one_wide = {1, 1};

/* A class under construction: what of it is ASCII, and the rest as alternatives. */
struct class_builder {
    struct parser *parser;
    unsigned flags;
    size_t open;
    bool complement;
    struct pattern_set set;
    struct parts wide;
};

/* --- sets --- */

static void
set_add(struct pattern_set *set, unsigned c)
{
    set->bits[c / 8] |= (uint8_t)(1U << c % 8);
}

static void
set_add_range(struct pattern_set *set, unsigned low, unsigned high)
{
    for (unsigned c = low; c <= high; c++) {
        set_add(set, c);
    }
}

/* By its small letter. */
static struct pattern_set
category_set(char category, unsigned flags)
{
    bool ascii = flags & PATTERN_ASCII;
    struct pattern_set set = {{0}};
    if (category == 's') {
        set_add_range(&set, '\t', '\r');
        /* The separators before the blank are blanks to str, and not to bytes. */
        set_add_range(&set, ascii ? ' ' : 0x1c, ' ');
        return set;
    }
    set_add_range(&set, '0', '9');
    if (category == 'w') {
        set_add_range(&set, 'A', 'Z');
        set_add_range(&set, 'a', 'z');
        set_add(&set, '_');
        /* Beyond ASCII, letters are the better guess. */
        set_add_range(&set, ASCII_END, ascii ? 0 : 0xff);
    }
    return set;
}

static void
set_add_category(struct pattern_set *set, char category, unsigned flags)
{
    bool complement = category < 'a';
    struct pattern_set add = category_set((char)(category | 0x20), flags);
    for (size_t i = 0; i < sizeof add.bits; i++) {
        set->bits[i] |= (uint8_t)(complement ? ~add.bits[i] : add.bits[i]);
    }
}

static void
set_fold(struct pattern_set *set)
{
    for (unsigned c = 'A'; c <= 'Z'; c++) {
        unsigned small = c + 'a' - 'A';
        if (pattern_set_has(set, (unsigned char)c) || pattern_set_has(set, (unsigned char)small)) {
            set_add(set, c);
            set_add(set, small);
        }
    }
}

/* --- characters beyond ASCII --- */

/* The last character that has the form of `c` in all but its last `tail` bytes, and no more bytes.
 */
static uint32_t
utf8_block_end(uint32_t c, unsigned tail)
{
    return c | ((UINT32_C(1) << 6 * tail) - 1);
}

/* How far from `low` on the bytes of a character can be told independently: each in a range. */
static uint32_t
utf8_run_end(uint32_t low, uint32_t high)
{
    static const uint32_t last_of_length[] = {0x7f, 0x7ff, 0xffff, UINT32_MAX};
    unsigned length = utf8_length(low);
    uint32_t end = high < last_of_length[length - 1] ? high : last_of_length[length - 1];
    for (unsigned tail = length - 1; tail > 0; tail--) {
        if (utf8_block_end(low, tail) == utf8_block_end(end, tail)) {
            continue;
        }
        /* They differ above the tail: whole blocks only, or the rest of this one. */
        if ((low & ((UINT32_C(1) << 6 * tail) - 1)) != 0) {
            end = utf8_block_end(low, tail);
        }
        else if (utf8_block_end(end, tail) != end) {
            end = (end & ~((UINT32_C(1) << 6 * tail) - 1)) - 1;
        }
    }
    return end;
}

/* A run is bytes in sequence, each out of a range. */
static enum err
add_run(struct class_builder *builder, uint32_t low, uint32_t high)
{
    struct parts parts = {0};
    struct part part = {.width = one_wide};
    unsigned length = utf8_length(low);
    for (unsigned i = 0; i < length; i++) {
        struct pattern_set set = {{0}};
        set_add_range(&set, utf8_byte(low, length, i), utf8_byte(high, length, i));
        enum err err = tree_add_set(builder->parser, &set, builder->open, &part.node);
        if (err) {
            return err;
        }
        parts_push(builder->parser, &parts, &part);
    }
    enum err err = parts_join(builder->parser, &parts, PATTERN_CONCAT, builder->open, &part);
    if (!err) {
        parts_push(builder->parser, &builder->wide, &part);
    }
    return err;
}

static enum err
add_as_written(struct class_builder *builder, uint32_t low, uint32_t high)
{
    for (; low <= high && low < ASCII_END; low++) {
        set_add(&builder->set, low);
    }
    /* A complement holds all that is beyond ASCII. */
    enum err err = ERR_OK;
    for (uint32_t end; !builder->complement && low <= high && !err; low = end + 1) {
        end = utf8_run_end(low, high);
        err = add_run(builder, low, end);
    }
    return err;
}

/* What equals those of the run that are in the range. */
static enum err
add_other_case(struct class_builder *builder, const struct case_run *run, uint32_t low,
               uint32_t high)
{
    uint32_t first = run->low, last = run->high < high ? run->high : high;
    if (first < low) {
        first += (low - first + run->step - 1) / run->step * run->step;
    }
    uint32_t span = run->step == 1 && first <= last ? last - first : 0;
    enum err err = ERR_OK;
    for (uint32_t c = first; c <= last && !err; c += span + run->step) {
        uint32_t other = c + (uint32_t)run->distance;
        if (other < low || other + span > high) {
            err = add_as_written(builder, other, other + span);
        }
    }
    return err;
}

static enum err
add_range(struct class_builder *builder, uint32_t low, uint32_t high)
{
    bool folded = (builder->flags & (PATTERN_IGNORECASE | PATTERN_ASCII)) == PATTERN_IGNORECASE;
    enum err err = add_as_written(builder, low, high);
    for (const struct case_run *run = case_runs; folded && run->step != 0 && !err; run++) {
        err = high < ASCII_END ? ERR_OK : add_other_case(builder, run, low, high);
    }
    return err;
}

/* --- reading --- */

/* One end of a range, or what stands alone. */
static enum err
read_item(struct class_builder *builder, struct scan_escape *out)
{
    struct scan *scan = &builder->parser->scan;
    int c = scan_peek(scan);
    if (c < 0) {
        return scan_fail(scan, builder->open, "unterminated character set");
    }
    if (c == '\\') {
        return scan_escape(scan, true, out);
    }
    out->kind = SCAN_LITERAL;
    out->value = scan_char(scan);
    return ERR_OK;
}

/* An item, or a range of which it is the low end. */
static enum err
read_member(struct class_builder *builder)
{
    struct scan *scan = &builder->parser->scan;
    struct scan_escape low, high;
    size_t begin = scan->pos;
    enum err err = read_item(builder, &low);
    if (err) {
        return err;
    }
    bool range = scan_match(scan, '-');
    if (range && scan_peek(scan) == ']') {
        scan->pos--;
        range = false;
    }
    if (!range && low.kind == SCAN_CATEGORY) {
        set_add_category(&builder->set, (char)low.value, builder->flags);
        return ERR_OK;
    }
    high = low;
    err = range ? read_item(builder, &high) : ERR_OK;
    if (err) {
        return err;
    }
    if (low.kind != SCAN_LITERAL || high.kind != SCAN_LITERAL || high.value < low.value) {
        return scan_fail(scan, begin, "bad character range %.*s", (int)(scan->pos - begin),
                         (const char *)scan->text + begin);
    }
    return add_range(builder, low.value, high.value);
}

static enum err
read_members(struct class_builder *builder)
{
    struct scan *scan = &builder->parser->scan;
    builder->open = scan->pos++;
    builder->complement = scan_match(scan, '^');
    /* A ']' that comes first is a member. */
    for (bool first = true; first || !scan_match(scan, ']'); first = false) {
        enum err err = read_member(builder);
        if (err) {
            return err;
        }
    }
    return ERR_OK;
}

static bool
is_empty(const struct pattern_set *set)
{
    static const struct pattern_set empty;
    return memcmp(set, &empty, sizeof empty) == 0;
}

static enum err
add_set(struct parser *parser, const struct pattern_set *set, size_t position, struct part *out)
{
    *out = (struct part){.width = one_wide};
    return tree_add_set(parser, set, position, &out->node);
}

enum err
parse_class(struct parser *parser, unsigned flags, struct part *out)
{
    struct class_builder builder = {.parser = parser, .flags = flags};
    struct part ascii;
    enum err err = read_members(&builder);
    if (err) {
        return err;
    }
    if (flags & PATTERN_IGNORECASE) {
        set_fold(&builder.set);
    }
    for (size_t i = 0; builder.complement && i < sizeof builder.set.bits; i++) {
        builder.set.bits[i] = (uint8_t)~builder.set.bits[i];
    }
    if (builder.wide.count == 0 || !is_empty(&builder.set)) {
        err = add_set(parser, &builder.set, builder.open, &ascii);
        if (err) {
            return err;
        }
        parts_push(parser, &builder.wide, &ascii);
    }
    err = parts_join(parser, &builder.wide, PATTERN_ALTERNATE, builder.open, out);
    out->width = one_wide;
    return err;
}

enum err
parse_dot(struct parser *parser, unsigned flags, struct part *out)
{
    struct pattern_set set;
    memset(set.bits, 0xff, sizeof set.bits);
    if (!(flags & PATTERN_DOTALL)) {
        set.bits['\n' / 8] &= (uint8_t) ~(1U << '\n' % 8);
    }
    return add_set(parser, &set, parser->scan.pos++, out);
}

enum err
parse_category(struct parser *parser, char category, unsigned flags, size_t position,
               struct part *out)
{
    struct pattern_set set = {{0}};
    set_add_category(&set, category, flags);
    return add_set(parser, &set, position, out);
}
