#include <string.h>

#include "pattern_parse.h"

#define LOOK_BEHIND_MAX UINT32_MAX
/* re's own maximum. */
#define GROUPS_MAX (UINT32_MAX / 4)

/* --- references --- */

static bool
is_closed(const struct parser *parser, uint32_t group)
{
    return group <= parser->pattern->group_count && parser->pattern->groups[group - 1].closed;
}

/* Within a look-behind only what was closed before it. */
static enum err
check_behind(struct parser *parser, uint32_t group)
{
    if (parser->behind_groups == 0) {
        return ERR_OK;
    }
    if (!is_closed(parser, group)) {
        return scan_fail(&parser->scan, parser->scan.pos, "cannot refer to an open group");
    }
    return group < parser->behind_groups
               ? ERR_OK
               : scan_fail(&parser->scan, parser->scan.pos,
                           "cannot refer to group defined in the same lookbehind subpattern");
}

enum err
parse_backref(struct parser *parser, uint32_t group, unsigned flags, size_t position,
              struct part *out)
{
    struct pattern *pattern = parser->pattern;
    if (!is_closed(parser, group)) {
        return scan_fail(&parser->scan, position, "cannot refer to an open group");
    }
    enum err err = check_behind(parser, group);
    if (err) {
        return err;
    }
    *out = (struct part){.width = pattern->groups[group - 1].width};
    err = tree_add(parser, PATTERN_BACKREF, position, &out->node);
    if (!err) {
        pattern->nodes[out->node].group = group;
        pattern->nodes[out->node].caseless = flags & PATTERN_IGNORECASE;
    }
    return err;
}

/* --- names --- */

/* Up to the terminator, which is taken too. */
static enum err
parse_name(struct parser *parser, char terminator, struct slice *name)
{
    struct scan *scan = &parser->scan;
    size_t begin = scan->pos;
    const unsigned char *end = memchr(scan->text + begin, terminator, scan->len - begin);
    if (end == NULL) {
        return begin == scan->len
                   ? scan_fail(scan, begin, "missing group name")
                   : scan_fail(scan, begin, "missing %c, unterminated name", terminator);
    }
    *name = (struct slice){(const char *)scan->text + begin, (size_t)(end - scan->text) - begin};
    scan->pos += name->len + 1;
    return name->len > 0 ? ERR_OK : scan_fail(scan, begin, "missing group name");
}

/* Any character beyond ASCII will do: a name means nothing to a decision. */
static enum err
check_name(struct parser *parser, struct slice name)
{
    bool valid = !(name.data[0] >= '0' && name.data[0] <= '9');
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.data[i], small = c | 0x20;
        valid =
            valid
            && (c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || (small >= 'a' && small <= 'z'));
    }
    return valid ? ERR_OK
                 : scan_fail(&parser->scan, parser->scan.pos - name.len - 1,
                             "bad character in group name '%.*s'", (int)name.len, name.data);
}

/* 0 if there is none. */
static uint32_t
find_group(const struct parser *parser, struct slice name)
{
    const struct pattern *pattern = parser->pattern;
    for (uint32_t i = 0; i < pattern->group_count; i++) {
        struct slice other = pattern->groups[i].name;
        if (other.len == name.len && memcmp(other.data, name.data, name.len) == 0) {
            return i + 1;
        }
    }
    return 0;
}

static enum err
known_group(struct parser *parser, struct slice name, uint32_t *group)
{
    enum err err = check_name(parser, name);
    if (err) {
        return err;
    }
    *group = find_group(parser, name);
    return *group != 0 ? ERR_OK
                       : scan_fail(&parser->scan, parser->scan.pos - name.len - 1,
                                   "unknown group name '%.*s'", (int)name.len, name.data);
}

/* Behind "(?P=". */
static enum err
parse_named_backref(struct parser *parser, unsigned flags, struct part *out)
{
    struct slice name;
    uint32_t group;
    enum err err = parse_name(parser, ')', &name);
    if (!err) {
        err = known_group(parser, name, &group);
    }
    return err ? err : parse_backref(parser, group, flags, parser->scan.pos - name.len - 1, out);
}

/* --- groups --- */

static enum err
expect_close(struct parser *parser, size_t open)
{
    return scan_match(&parser->scan, ')')
               ? ERR_OK
               : scan_fail(&parser->scan, open, "missing ), unterminated subpattern");
}

/* What stands between the brackets, and the closing one. */
static enum err
parse_inside(struct parser *parser, unsigned flags, size_t open, struct part *out)
{
    enum err err = parse_alternate(parser, flags, false, out);
    return err ? err : expect_close(parser, open);
}

static enum err
parse_atomic(struct parser *parser, unsigned flags, size_t open, struct part *out)
{
    enum err err = parse_inside(parser, flags, open, out);
    return err ? err : tree_add_parent(parser, PATTERN_ATOMIC, open, out->node, &out->node);
}

static enum err
parse_capture(struct parser *parser, unsigned flags, size_t open, struct slice name,
              struct part *out)
{
    struct pattern *pattern = parser->pattern;
    void *groups = pattern->groups;
    uint32_t group = pattern->group_count + 1;
    enum err err = tree_make_room(&groups, &pattern->group_room, group, sizeof *pattern->groups);
    if (err) {
        return err;
    }
    pattern->groups = groups;
    if (name.len > 0 && find_group(parser, name) != 0) {
        return scan_fail(&parser->scan, parser->scan.pos - name.len - 1,
                         "redefinition of group name '%.*s' as group %u; was group %u",
                         (int)name.len, name.data, (unsigned)group,
                         (unsigned)find_group(parser, name));
    }
    pattern->groups[group - 1] = (struct pattern_group){.name = name};
    pattern->group_count++;
    err = parse_inside(parser, flags, open, out);
    if (err) {
        return err;
    }
    pattern->groups[group - 1].width = out->width;
    pattern->groups[group - 1].closed = true;
    err = tree_add_parent(parser, PATTERN_CAPTURE, open, out->node, &out->node);
    if (!err) {
        pattern->nodes[out->node].group = group;
    }
    return err;
}

/* Behind "(?P<". */
static enum err
parse_named_capture(struct parser *parser, unsigned flags, size_t open, struct part *out)
{
    struct slice name;
    enum err err = parse_name(parser, '>', &name);
    if (!err) {
        err = check_name(parser, name);
    }
    return err ? err : parse_capture(parser, flags, open, name, out);
}

/* Behind "(?P". */
static enum err
parse_extension(struct parser *parser, unsigned flags, size_t open, struct part *out)
{
    if (scan_match(&parser->scan, '<')) {
        return parse_named_capture(parser, flags, open, out);
    }
    if (scan_match(&parser->scan, '=')) {
        return parse_named_backref(parser, flags, out);
    }
    int c = scan_peek(&parser->scan);
    return c < 0 ? scan_fail(&parser->scan, parser->scan.pos, "unexpected end of pattern")
                 : scan_fail(&parser->scan, open + 1, "unknown extension ?P%c", c);
}

static enum err
parse_look(struct parser *parser, unsigned flags, size_t open, bool behind, bool negative,
           struct part *out)
{
    uint32_t outer = parser->behind_groups;
    if (behind && outer == 0) {
        parser->behind_groups = parser->pattern->group_count + 1;
    }
    enum err err = parse_inside(parser, flags, open, out);
    parser->behind_groups = outer;
    if (err) {
        return err;
    }
    bool varies = out->width.min != out->width.max || out->width.min > LOOK_BEHIND_MAX;
    if (behind && varies && !parser->behind_varies) {
        parser->behind_varies = true;
        parser->behind_position = open;
    }
    err = tree_add_parent(parser, PATTERN_LOOK, open, out->node, &out->node);
    if (!err) {
        parser->pattern->nodes[out->node].behind = behind;
        parser->pattern->nodes[out->node].negative = negative;
        out->width = (struct width){0, 0};
    }
    return err;
}

/* Behind "(?<". */
static enum err
parse_look_behind(struct parser *parser, unsigned flags, size_t open, struct part *out)
{
    int c = scan_peek(&parser->scan);
    if (c < 0) {
        return scan_fail(&parser->scan, parser->scan.pos, "unexpected end of pattern");
    }
    if (c != '=' && c != '!') {
        return scan_fail(&parser->scan, open + 1, "unknown extension ?<%c", c);
    }
    parser->scan.pos++;
    return parse_look(parser, flags, open, true, c == '!', out);
}

/* A group's number may be one that comes later: looked at again at the end. */
static enum err
conditional_group(struct parser *parser, uint32_t *group)
{
    struct slice name;
    enum err err = parse_name(parser, ')', &name);
    if (err) {
        return err;
    }
    size_t position = parser->scan.pos - name.len - 1;
    struct scan digits = {.text = (const unsigned char *)name.data, .len = name.len};
    if (!scan_number(&digits, group) || digits.pos < name.len) {
        return known_group(parser, name, group);
    }
    if (*group == 0) {
        return scan_fail(&parser->scan, position, "bad group number");
    }
    if (*group >= GROUPS_MAX) {
        return scan_fail(&parser->scan, position, "invalid group reference %u", (unsigned)*group);
    }
    if (*group > parser->wanted_group) {
        parser->wanted_group = *group;
        parser->wanted_position = position;
    }
    return ERR_OK;
}

/* Behind "(?(". */
static enum err
parse_conditional(struct parser *parser, unsigned flags, size_t open, struct part *out)
{
    uint32_t group;
    struct part yes, no;
    enum err err = conditional_group(parser, &group);
    if (!err) {
        err = check_behind(parser, group);
    }
    if (!err) {
        err = parse_sequence(parser, &flags, false, &yes);
    }
    if (err) {
        return err;
    }
    if (scan_match(&parser->scan, '|')) {
        err = parse_sequence(parser, &flags, false, &no);
    }
    else {
        no.width = (struct width){0, 0};
        err = tree_add(parser, PATTERN_EMPTY, parser->scan.pos, &no.node);
    }
    if (err) {
        return err;
    }
    if (scan_peek(&parser->scan) == '|') {
        return scan_fail(&parser->scan, parser->scan.pos,
                         "conditional backref with more than two branches");
    }
    err = expect_close(parser, open);
    if (!err) {
        err = tree_add_parent(parser, PATTERN_CONDITIONAL, open, yes.node, &out->node);
    }
    if (!err) {
        parser->pattern->nodes[yes.node].next = no.node;
        parser->pattern->nodes[out->node].group = group;
        out->width = width_of_either(yes.width, no.width);
    }
    return err;
}

/* --- inline flags --- */

/* `flags` are those of the sequence, which global ones change. */
static enum err
parse_flag_group(struct parser *parser, unsigned *flags, bool may_be_global, size_t open,
                 struct part *out)
{
    struct flag_change change;
    enum err err = parse_flags(parser, &change);
    if (err) {
        return err;
    }
    if (!change.global) {
        return parse_inside(parser, (*flags | change.on) & ~change.off, open, out);
    }
    if (!may_be_global) {
        return scan_fail(&parser->scan, open, "global flags not at the start of the expression");
    }
    *flags = parser->flags;
    return ERR_OK;
}

/* --- what begins with a bracket --- */

static enum err
parse_comment(struct parser *parser, size_t open)
{
    bool closed;
    enum err err = scan_skip_past(&parser->scan, ')', &closed);
    if (err || closed) {
        return err;
    }
    return scan_fail(&parser->scan, open, "missing ), unterminated comment");
}

/* Behind "(?". */
static enum err
parse_special(struct parser *parser, unsigned *flags, bool may_be_global, size_t open,
              struct part *out)
{
    int c = scan_peek(&parser->scan);
    if (parse_is_flag(c) || c == '-') {
        return parse_flag_group(parser, flags, may_be_global, open, out);
    }
    if (c < 0) {
        return scan_fail(&parser->scan, parser->scan.pos, "unexpected end of pattern");
    }
    parser->scan.pos++;
    switch (c) {
    case 'P':
        return parse_extension(parser, *flags, open, out);
    case ':':
        return parse_inside(parser, *flags, open, out);
    case '#':
        return parse_comment(parser, open);
    case '=':
    case '!':
        return parse_look(parser, *flags, open, false, c == '!', out);
    case '<':
        return parse_look_behind(parser, *flags, open, out);
    case '(':
        return parse_conditional(parser, *flags, open, out);
    case '>':
        return parse_atomic(parser, *flags, open, out);
    default:
        return scan_fail(&parser->scan, open + 1, "unknown extension ?%c", c);
    }
}

enum err
parse_group(struct parser *parser, unsigned *flags, bool may_be_global, struct part *out)
{
    size_t open = parser->scan.pos++;
    *out = (struct part){.node = 0};
    if (parser->depth == PATTERN_DEPTH_MAX) {
        return scan_fail(&parser->scan, open, "more than %d brackets within each other",
                         PATTERN_DEPTH_MAX);
    }
    parser->depth++;
    enum err err = scan_match(&parser->scan, '?')
                       ? parse_special(parser, flags, may_be_global, open, out)
                       : parse_capture(parser, *flags, open, (struct slice){NULL, 0}, out);
    parser->depth--;
    return err;
}
