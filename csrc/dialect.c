#include "dialect.h"

#include <stdio.h>
#include <string.h>

#include "mem.h"

/* PCRE2's own maxima are far below what this much text compiles to. */
#define TEXT_MAX (1024 * 1024)
#define REPEAT_MAX 65535

/* What is known of a pattern before the first byte is written. */
struct writer {
    const struct pattern *pattern;
    struct buf *out;
    struct regex_error *error;
    bool caseless;     /* the option: all letters of the pattern are */
    uint32_t *numbers; /* by group: its number in the translation, 0 if nothing refers to it */
    size_t sought;     /* a place in the translation... */
    size_t found;      /* ...and that of the rule it comes from */
};

static enum err write_node(struct writer *writer, uint32_t index);

void
dialect_init(struct dialect *dialect)
{
    pattern_init(&dialect->pattern);
    buf_init(&dialect->text, TEXT_MAX);
    dialect->options = (struct regex_options){.dotall = true};
}

void
dialect_fini(struct dialect *dialect)
{
    pattern_fini(&dialect->pattern);
    buf_fini(&dialect->text);
}

/* --- what the options are to be --- */

static bool
is_letter(unsigned char c)
{
    unsigned char small = c | 0x20;
    return small >= 'a' && small <= 'z';
}

static bool
is_single(const struct pattern_node *node)
{
    return node->kind == PATTERN_BYTE || node->kind == PATTERN_CLASS;
}

static bool
is_folded(const struct pattern_set *set)
{
    for (unsigned char c = 'A'; c <= 'Z'; c++) {
        if (pattern_set_has(set, c) != pattern_set_has(set, c | 0x20)) {
            return false;
        }
    }
    return true;
}

/* Whether PCRE2 may be told once that case does not count. */
static bool
is_caseless(const struct pattern *pattern)
{
    bool any = false;
    for (uint32_t i = 1; i < pattern->node_count; i++) {
        const struct pattern_node *node = pattern_node(pattern, i);
        bool cased =
            node->kind == PATTERN_BACKREF || (node->kind == PATTERN_BYTE && is_letter(node->byte));
        if ((cased && !node->caseless)
            || (node->kind == PATTERN_CLASS && !is_folded(pattern_set(pattern, node)))) {
            return false;
        }
        any = any || cased;
    }
    return any;
}

static void
choose_options(const struct pattern *pattern, struct regex_options *options)
{
    *options = (struct regex_options){.dotall = true, .caseless = is_caseless(pattern)};
    for (uint32_t i = 1; i < pattern->node_count; i++) {
        const struct pattern_node *node = pattern_node(pattern, i);
        if (node->kind == PATTERN_LINE_BEGIN) {
            options->line_begins_at_end = true;
        }
        if (node->kind == PATTERN_ATOMIC
            || (node->kind == PATTERN_REPEAT && node->greed == PATTERN_POSSESSIVE
                && !is_single(pattern_node(pattern, node->child)))) {
            options->no_auto_possess = true;
        }
    }
}

/* Groups that nothing refers to need not capture.  Leaves *numbers NULL if there is no reference.
 */
static enum err
number_groups(const struct pattern *pattern, uint32_t **numbers)
{
    for (uint32_t i = 1; i < pattern->node_count; i++) {
        const struct pattern_node *node = pattern_node(pattern, i);
        if (node->kind != PATTERN_BACKREF && node->kind != PATTERN_CONDITIONAL) {
            continue;
        }
        if (*numbers == NULL) {
            *numbers = mem_calloc((size_t)pattern->group_count + 1, sizeof **numbers);
            if (*numbers == NULL) {
                return ERR_MEMORY;
            }
        }
        (*numbers)[node->group] = 1;
    }
    for (uint32_t group = 1, last = 0; *numbers != NULL && group <= pattern->group_count; group++) {
        if ((*numbers)[group] != 0) {
            (*numbers)[group] = ++last;
        }
    }
    return ERR_OK;
}

/* --- characters --- */

static enum err
refuse(struct writer *writer, const struct pattern_node *node, const char *why)
{
    writer->error->position = node->position;
    snprintf(writer->error->message, sizeof writer->error->message, "%s", why);
    return ERR_INVALID;
}

static bool
is_plain(unsigned char c)
{
    return is_letter(c) || (c >= '0' && c <= '9');
}

/* A rule has many of these, hence no printf. */
static enum err
write_hex(struct writer *writer, unsigned char c)
{
    static const char digits[] = "0123456789abcdef";
    const char text[] = {'\\', 'x', digits[c >> 4], digits[c & 0xf]};
    return buf_append(writer->out, text, sizeof text);
}

static enum err
write_byte(struct writer *writer, const struct pattern_node *node)
{
    unsigned char c = node->byte;
    const char escaped[] = {'\\', (char)c};
    const char either[] = {'[', (char)c, (char)(c ^ 0x20), ']'};
    if (node->caseless && !writer->caseless) {
        return buf_append(writer->out, either, sizeof either);
    }
    if (c <= ' ' || c >= 0x7f) {
        return write_hex(writer, c);
    }
    if (strchr("\\^$.[]|()?*+{}", c) != NULL) {
        return buf_append(writer->out, escaped, sizeof escaped);
    }
    return buf_append_char(writer->out, (char)c);
}

static enum err
write_member(struct writer *writer, unsigned char c)
{
    return is_plain(c) ? buf_append_char(writer->out, (char)c) : write_hex(writer, c);
}

/* Those that are, or with `complement` are not, in the set. */
static enum err
write_members(struct writer *writer, const struct pattern_set *set, bool complement)
{
    for (unsigned low = 0, high; low < 256; low = high + 1) {
        high = low;
        if (set->bits[low / 8] == (complement ? 0xff : 0)) {
            high |= 7; /* none of these eight */
            continue;
        }
        if (pattern_set_has(set, (unsigned char)low) == complement) {
            continue;
        }
        while (high < 255 && pattern_set_has(set, (unsigned char)(high + 1)) != complement) {
            high++;
        }
        enum err err = write_member(writer, (unsigned char)low);
        if (!err && high > low + 1) {
            err = buf_append_char(writer->out, '-');
        }
        if (!err && high > low) {
            err = write_member(writer, (unsigned char)high);
        }
        if (err) {
            return err;
        }
    }
    return ERR_OK;
}

static enum err
write_class(struct writer *writer, const struct pattern_set *set)
{
    struct pattern_set dot;
    memset(dot.bits, 0xff, sizeof dot.bits);
    if (memcmp(set, &dot, sizeof dot) == 0) {
        return buf_append_char(writer->out, '.');
    }
    dot.bits['\n' / 8] &= (uint8_t)~(1U << '\n' % 8);
    if (memcmp(set, &dot, sizeof dot) == 0) {
        return buf_append_string(writer->out, "\\N");
    }
    bool complement = pattern_set_has(set, 0xff);
    struct pattern_set none = {{0}};
    if (memcmp(set, &none, sizeof none) == 0) {
        return buf_append_string(writer->out, "[^\\x00-\\xff]");
    }
    enum err err = buf_append_string(writer->out, complement ? "[^" : "[");
    if (!err) {
        err = write_members(writer, set, complement);
    }
    return err ? err : buf_append_char(writer->out, ']');
}

/* --- what holds other nodes --- */

static enum err
write_children(struct writer *writer, const struct pattern_node *node, const char *between)
{
    for (uint32_t i = node->child; i != 0; i = pattern_node(writer->pattern, i)->next) {
        enum err err = i == node->child ? ERR_OK : buf_append_string(writer->out, between);
        if (!err) {
            err = write_node(writer, i);
        }
        if (err) {
            return err;
        }
    }
    return ERR_OK;
}

static bool
is_captured(const struct writer *writer, const struct pattern_node *node)
{
    return writer->numbers != NULL && writer->numbers[node->group] != 0;
}

/* The node, or what is in it if it is a group that need not capture. */
static uint32_t
effective(const struct writer *writer, uint32_t index)
{
    const struct pattern_node *node = pattern_node(writer->pattern, index);
    while (node->kind == PATTERN_CAPTURE && !is_captured(writer, node)) {
        index = node->child;
        node = pattern_node(writer->pattern, index);
    }
    return index;
}

/* Where nothing stands to either side, so that an alternation needs no brackets of its own: PCRE2
 * counts them. */
static enum err
write_alone(struct writer *writer, uint32_t index)
{
    const struct pattern_node *node = pattern_node(writer->pattern, effective(writer, index));
    return node->kind == PATTERN_ALTERNATE ? write_children(writer, node, "|")
                                           : write_node(writer, index);
}

static enum err
write_bracketed(struct writer *writer, const char *open, uint32_t index)
{
    enum err err = buf_append_string(writer->out, open);
    if (!err) {
        err = write_alone(writer, index);
    }
    return err ? err : buf_append_char(writer->out, ')');
}

static enum err
write_bounds(struct writer *writer, const struct pattern_node *node)
{
    static const char *const suffixes[] = {
        [PATTERN_GREEDY] = "", [PATTERN_LAZY] = "?", [PATTERN_POSSESSIVE] = "+"};
    /* No subject is so long that a larger maximum could be told from none. */
    bool unlimited = node->max > REPEAT_MAX;
    enum err err;
    if (node->min > REPEAT_MAX) {
        return refuse(writer, node, "a repeat of more than 65535 times is not supported");
    }
    if (node->min <= 1 && unlimited) {
        err = buf_append_char(writer->out, node->min == 0 ? '*' : '+');
    }
    else if (node->min == 0 && node->max == 1) {
        err = buf_append_char(writer->out, '?');
    }
    else if (unlimited) {
        err = buf_append_format(writer->out, "{%u,}", (unsigned)node->min);
    }
    else if (node->min == node->max) {
        err = buf_append_format(writer->out, "{%u}", (unsigned)node->min);
    }
    else {
        err = buf_append_format(writer->out, "{%u,%u}", (unsigned)node->min, (unsigned)node->max);
    }
    return err ? err : buf_append_string(writer->out, suffixes[node->greed]);
}

/* A repeat of no times matches nothing at all, everywhere.  PCRE2 goes wrong for /(a|^){0}b/, so
 * that it is left out, unless it may have a group that something refers to. */
static enum err
write_never(struct writer *writer, uint32_t child)
{
    enum err err = ERR_OK;
    if (writer->numbers != NULL) {
        err = buf_append_string(writer->out, "(?:(?!)");
        if (!err) {
            err = write_node(writer, child);
        }
        if (!err) {
            err = buf_append_string(writer->out, "|)");
        }
    }
    return err;
}

static enum err
write_repeat(struct writer *writer, const struct pattern_node *node)
{
    if (node->max == 0) {
        return write_never(writer, node->child);
    }
    uint32_t child = effective(writer, node->child);
    enum pattern_kind kind = pattern_node(writer->pattern, child)->kind;
    bool whole = kind == PATTERN_BYTE || kind == PATTERN_CLASS || kind == PATTERN_CAPTURE
                 || kind == PATTERN_ATOMIC || kind == PATTERN_BACKREF
                 || kind == PATTERN_CONDITIONAL;
    enum err err = whole ? write_node(writer, child) : write_bracketed(writer, "(?:", child);
    return err ? err : write_bounds(writer, node);
}

static enum err
write_look(struct writer *writer, const struct pattern_node *node)
{
    static const char *const opens[2][2] = {{"(?=", "(?!"}, {"(?<=", "(?<!"}};
    return write_bracketed(writer, opens[node->behind][node->negative], node->child);
}

static enum err
write_reference(struct writer *writer, const struct pattern_node *node)
{
    bool local = node->caseless && !writer->caseless;
    return buf_append_format(writer->out, local ? "(?i:\\g{%u})" : "\\g{%u}",
                             (unsigned)writer->numbers[node->group]);
}

static enum err
write_conditional(struct writer *writer, const struct pattern_node *node)
{
    enum err err = buf_append_format(writer->out, "(?(%u)", (unsigned)writer->numbers[node->group]);
    if (!err) {
        err = write_children(writer, node, "|");
    }
    return err ? err : buf_append_char(writer->out, ')');
}

static const char *
anchor_text(enum pattern_kind kind)
{
    switch (kind) {
    case PATTERN_BEGIN:
        return "\\A";
    case PATTERN_LINE_BEGIN:
        return "(?m:^)";
    case PATTERN_END:
        return "$";
    case PATTERN_LINE_END:
        return "(?m:$)";
    case PATTERN_VERY_END:
        return "\\z";
    case PATTERN_BOUNDARY:
        return "\\b";
    case PATTERN_NOT_BOUNDARY:
        return "\\B";
    default:
        return "";
    }
}

static enum err
write_node(struct writer *writer, uint32_t index)
{
    index = effective(writer, index);
    const struct pattern_node *node = pattern_node(writer->pattern, index);
    if (writer->out->len <= writer->sought) {
        writer->found = node->position;
    }
    switch ((enum pattern_kind)node->kind) {
    case PATTERN_BYTE:
        return write_byte(writer, node);
    case PATTERN_CLASS:
        return write_class(writer, pattern_set(writer->pattern, node));
    case PATTERN_CONCAT:
        return write_children(writer, node, "");
    case PATTERN_ALTERNATE:
        return write_bracketed(writer, "(?:", index);
    case PATTERN_REPEAT:
        return write_repeat(writer, node);
    case PATTERN_CAPTURE:
        return write_bracketed(writer, "(", node->child);
    case PATTERN_ATOMIC:
        return write_bracketed(writer, "(?>", node->child);
    case PATTERN_LOOK:
        return write_look(writer, node);
    case PATTERN_BACKREF:
        return write_reference(writer, node);
    case PATTERN_CONDITIONAL:
        return write_conditional(writer, node);
    default:
        return buf_append_string(writer->out, anchor_text(node->kind));
    }
}

/* --- the whole --- */

/* `sought` is a place in the translation, *found the place in the rule that it comes from. */
static enum err
write_pattern(struct dialect *dialect, size_t sought, size_t *found, struct regex_error *error)
{
    struct writer writer = {
        .pattern = &dialect->pattern,
        .out = &dialect->text,
        .error = error,
        .caseless = dialect->options.caseless,
        .sought = sought,
    };
    enum err err = number_groups(&dialect->pattern, &writer.numbers);
    if (!err) {
        buf_clear(&dialect->text);
        err = write_alone(&writer, dialect->pattern.root);
    }
    mem_free(writer.numbers);
    if (err == ERR_LIMIT) {
        return refuse(&writer, pattern_node(writer.pattern, writer.pattern->root), "too large");
    }
    *found = writer.found;
    return err;
}

enum err
dialect_translate(struct dialect *dialect, struct slice rule, unsigned flags,
                  struct regex_error *error)
{
    size_t found;
    enum err err = pattern_parse(&dialect->pattern, rule, flags, error);
    if (err) {
        return err;
    }
    choose_options(&dialect->pattern, &dialect->options);
    return write_pattern(dialect, 0, &found, error);
}

enum err
dialect_compile(struct dialect *dialect, struct regex **out, struct regex_error *error)
{
    struct regex_error refusal;
    enum err err = regex_compile(buf_slice(&dialect->text), &dialect->options, out, &refusal);
    if (err != ERR_INVALID) {
        return err;
    }
    /* Its position is one in the translation. */
    size_t found;
    err = write_pattern(dialect, refusal.position, &found, error);
    if (err) {
        return err;
    }
    *error = refusal;
    error->position = found;
    return ERR_INVALID;
}
