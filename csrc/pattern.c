#include "pattern.h"

#include "pattern_parse.h"

static enum err
parse_anchor(struct parser *parser, char name, unsigned flags, size_t position, struct part *out)
{
    bool lines = flags & PATTERN_MULTILINE;
    enum pattern_kind kind = PATTERN_NOT_BOUNDARY;
    switch (name) {
    case '^':
        kind = lines ? PATTERN_LINE_BEGIN : PATTERN_BEGIN;
        break;
    case '$':
        kind = lines ? PATTERN_LINE_END : PATTERN_END;
        break;
    case 'A':
        kind = PATTERN_BEGIN;
        break;
    case 'Z':
        kind = PATTERN_VERY_END;
        break;
    case 'b':
        kind = PATTERN_BOUNDARY;
        break;
    }
    *out = (struct part){.is_anchor = true};
    return tree_add(parser, kind, position, &out->node);
}

static enum err
parse_escape(struct parser *parser, unsigned flags, struct part *out)
{
    struct scan_escape escape;
    size_t position = parser->scan.pos;
    enum err err = scan_escape(&parser->scan, false, &escape);
    if (err) {
        return err;
    }
    switch (escape.kind) {
    case SCAN_LITERAL:
        return tree_add_literal(parser, escape.value, flags, position, out);
    case SCAN_CATEGORY:
        return parse_category(parser, (char)escape.value, flags, position, out);
    case SCAN_ANCHOR:
        return parse_anchor(parser, (char)escape.value, flags, position, out);
    case SCAN_BACKREF:
        break;
    }
    if (escape.value > parser->pattern->group_count) {
        return scan_fail(&parser->scan, position + 1, "invalid group reference %u",
                         (unsigned)escape.value);
    }
    return parse_backref(parser, escape.value, flags, position, out);
}

/* --- repeats --- */

/* False if the '{' is one to be taken literally; then the scan stands behind it. */
static enum err
parse_bounds(struct parser *parser, uint32_t *min, uint32_t *max, bool *is_repeat)
{
    struct scan *scan = &parser->scan;
    size_t begin = scan->pos;
    bool has_max = false;
    *min = 0;
    *max = PATTERN_UNLIMITED;
    *is_repeat = scan_peek(scan) != '}';
    bool has_min = scan_number(scan, min);
    if (scan_match(scan, ',')) {
        has_max = scan_number(scan, max);
    }
    else if (has_min) {
        *max = *min;
        has_max = true;
    }
    *is_repeat = *is_repeat && scan_match(scan, '}');
    if (!*is_repeat) {
        scan->pos = begin;
        return ERR_OK;
    }
    if ((has_min && *min == PATTERN_UNLIMITED) || (has_max && *max == PATTERN_UNLIMITED)) {
        return scan_fail(scan, begin, "the repetition number is too large");
    }
    return *max < *min ? scan_fail(scan, begin, "min repeat greater than max repeat") : ERR_OK;
}

/* Puts the last part of the sequence under a repeat. */
static enum err
wrap_last(struct parser *parser, struct parts *parts, uint32_t min, uint32_t max)
{
    uint32_t moved;
    enum err err = tree_add(parser, PATTERN_EMPTY, 0, &moved);
    if (err) {
        return err;
    }
    struct pattern_node *last = &parser->pattern->nodes[parts->last];
    struct width *width = &parts->tail.width;
    enum pattern_greed greed = scan_match(&parser->scan, '?')   ? PATTERN_LAZY
                               : scan_match(&parser->scan, '+') ? PATTERN_POSSESSIVE
                                                                : PATTERN_GREEDY;
    parser->pattern->nodes[moved] = *last;
    *last = (struct pattern_node){
        .kind = PATTERN_REPEAT,
        .greed = (uint8_t)greed,
        .position = last->position,
        .child = moved,
        .min = min,
        .max = max,
    };
    width->min = width_product(width->min, min);
    width->max =
        max == PATTERN_UNLIMITED && width->max > 0 ? WIDTH_MAX : width_product(width->max, max);
    parts->tail.is_repeat = true;
    return ERR_OK;
}

static enum err
parse_repeat(struct parser *parser, unsigned flags, struct parts *parts)
{
    size_t position = parser->scan.pos;
    char c = (char)parser->scan.text[parser->scan.pos++];
    uint32_t min = c == '+' ? 1 : 0;
    uint32_t max = c == '?' ? 1 : PATTERN_UNLIMITED;
    bool is_repeat = true;
    enum err err = c == '{' ? parse_bounds(parser, &min, &max, &is_repeat) : ERR_OK;
    if (err) {
        return err;
    }
    if (!is_repeat) {
        struct part part;
        err = tree_add_literal(parser, '{', flags, position, &part);
        if (!err) {
            parts_push(parser, parts, &part);
        }
        return err;
    }
    if (parts->count == 0 || parts->tail.is_anchor) {
        return scan_fail(&parser->scan, position, "nothing to repeat");
    }
    if (parts->tail.is_repeat) {
        return scan_fail(&parser->scan, position, "multiple repeat");
    }
    return wrap_last(parser, parts, min, max);
}

/* --- sequences --- */

static enum err
parse_item(struct parser *parser, unsigned *flags, bool may_be_global, struct part *out)
{
    size_t position = parser->scan.pos;
    int c = scan_peek(&parser->scan);
    switch (c) {
    case '\\':
        return parse_escape(parser, *flags, out);
    case '[':
        return parse_class(parser, *flags, out);
    case '(':
        return parse_group(parser, flags, may_be_global, out);
    case '.':
        return parse_dot(parser, *flags, out);
    case '^':
    case '$':
        parser->scan.pos++;
        return parse_anchor(parser, (char)c, *flags, position, out);
    default:
        return tree_add_literal(parser, scan_char(&parser->scan), *flags, position, out);
    }
}

/* With (?x): a blank or a comment, which is taken. */
static enum err
skip_blank(struct parser *parser, bool *skipped)
{
    int c = scan_peek(&parser->scan);
    *skipped = c == '#' || c == ' ' || (c >= '\t' && c <= '\r');
    parser->scan.pos += *skipped;
    bool found;
    return c == '#' ? scan_skip_past(&parser->scan, '\n', &found) : ERR_OK;
}

/* Stands at the end, or at a '|' or ')'. */
static bool
sequence_ends(const struct parser *parser)
{
    int c = scan_peek(&parser->scan);
    return c < 0 || c == '|' || c == ')';
}

enum err
parse_sequence(struct parser *parser, unsigned *flags, bool first, struct part *out)
{
    struct parts parts = {0};
    size_t begin = parser->scan.pos;
    while (!sequence_ends(parser)) {
        int c = scan_peek(&parser->scan);
        bool skipped = false;
        struct part part;
        enum err err = *flags & PATTERN_VERBOSE ? skip_blank(parser, &skipped) : ERR_OK;
        if (!err && !skipped) {
            if (c == '*' || c == '+' || c == '?' || c == '{') {
                err = parse_repeat(parser, *flags, &parts);
            }
            else {
                err = parse_item(parser, flags, first && parts.count == 0, &part);
                if (!err && part.node != 0) {
                    parts_push(parser, &parts, &part);
                }
            }
        }
        if (err) {
            return err;
        }
    }
    return parts_join(parser, &parts, PATTERN_CONCAT, begin, out);
}

enum err
parse_alternate(struct parser *parser, unsigned flags, bool top, struct part *out)
{
    struct parts parts = {0};
    struct width width = {0, 0};
    size_t begin = parser->scan.pos;
    do {
        struct part part;
        unsigned branch_flags = top ? parser->flags : flags;
        enum err err = parse_sequence(parser, &branch_flags, top && parts.count == 0, &part);
        if (err) {
            return err;
        }
        width = parts.count == 0 ? part.width : width_of_either(width, part.width);
        parts_push(parser, &parts, &part);
    } while (scan_match(&parser->scan, '|'));
    enum err err = parts_join(parser, &parts, PATTERN_ALTERNATE, begin, out);
    out->width = width;
    return err;
}

static enum err
parse_whole(struct parser *parser)
{
    struct part part;
    struct scan *scan = &parser->scan;
    if (scan->len > PATTERN_BYTES_MAX) {
        return scan_fail(scan, PATTERN_BYTES_MAX, "longer than %d bytes", PATTERN_BYTES_MAX);
    }
    enum err err = parse_alternate(parser, 0, true, &part);
    if (err) {
        return err;
    }
    if (scan->pos < scan->len) {
        return scan_fail(scan, scan->pos, "unbalanced parenthesis");
    }
    if (parser->wanted_group > parser->pattern->group_count) {
        return scan_fail(scan, parser->wanted_position, "invalid group reference %u",
                         (unsigned)parser->wanted_group);
    }
    if (parser->behind_varies) {
        return scan_fail(scan, parser->behind_position, "look-behind requires fixed-width pattern");
    }
    parser->pattern->root = part.node;
    return ERR_OK;
}

enum err
pattern_parse(struct pattern *pattern, struct slice text, unsigned flags, struct regex_error *error)
{
    struct parser parser = {
        .scan = {.text = (const unsigned char *)text.data, .len = text.len, .error = error},
        .pattern = pattern,
        .flags = flags,
    };
    if (text.len == 0) {
        parser.scan.text = (const unsigned char *)"";
    }
    /* Node 0 is none. */
    pattern->node_count = 1;
    pattern->root = pattern->set_count = pattern->group_count = 0;
    return parse_whole(&parser);
}
