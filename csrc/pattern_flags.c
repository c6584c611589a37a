#include "pattern_parse.h"

static unsigned
flag_of(int c)
{
    switch (c) {
    case 'i':
        return PATTERN_IGNORECASE;
    case 'm':
        return PATTERN_MULTILINE;
    case 's':
        return PATTERN_DOTALL;
    case 'x':
        return PATTERN_VERBOSE;
    case 'a':
        return PATTERN_ASCII;
    default:
        return 0;
    }
}

bool
parse_is_flag(int c)
{
    return c == 'u' || c == 'L' || flag_of(c) != 0;
}

static enum err
unknown_flag(struct parser *parser, const char *missing)
{
    int c = scan_peek(&parser->scan);
    unsigned char small = (unsigned char)c | 0x20;
    return scan_fail(&parser->scan, parser->scan.pos, "%s",
                     c >= 0 && small >= 'a' && small <= 'z' ? "unknown flag" : missing);
}

/* Letters up to one of ")-:", which stays. */
static enum err
parse_flags_on(struct parser *parser, struct flag_change *change, bool *unicode)
{
    struct scan *scan = &parser->scan;
    for (int c = scan_peek(scan); c != ')' && c != '-' && c != ':'; c = scan_peek(scan)) {
        if (!parse_is_flag(c)) {
            return unknown_flag(parser, "missing -, : or )");
        }
        scan->pos++;
        if (c == 'L') {
            return scan_fail(scan, scan->pos,
                             "bad inline flags: cannot use 'L' flag with a str pattern");
        }
        *unicode = *unicode || c == 'u';
        change->on |= flag_of(c);
        if (*unicode && (change->on & PATTERN_ASCII)) {
            return scan_fail(scan, scan->pos,
                             "bad inline flags: flags 'a', 'u' and 'L' are incompatible");
        }
    }
    return ERR_OK;
}

/* Behind the '-'; letters up to ':', which stays. */
static enum err
parse_flags_off(struct parser *parser, struct flag_change *change)
{
    struct scan *scan = &parser->scan;
    do {
        int c = scan_peek(scan);
        if (!parse_is_flag(c)) {
            return unknown_flag(parser, change->off == 0 ? "missing flag" : "missing :");
        }
        scan->pos++;
        if (c == 'u' || c == 'L' || c == 'a') {
            return scan_fail(scan, scan->pos,
                             "bad inline flags: cannot turn off flags 'a', 'u' and 'L'");
        }
        change->off |= flag_of(c);
    } while (scan_peek(scan) != ':');
    if (change->on & change->off) {
        return scan_fail(scan, scan->pos, "bad inline flags: flag turned on and off");
    }
    return ERR_OK;
}

enum err
parse_flags(struct parser *parser, struct flag_change *change)
{
    bool unicode = false;
    *change = (struct flag_change){.on = 0};
    enum err err = parse_flags_on(parser, change, &unicode);
    if (!err && scan_match(&parser->scan, '-')) {
        err = parse_flags_off(parser, change);
    }
    if (err) {
        return err;
    }
    change->global = scan_match(&parser->scan, ')');
    if (change->global) {
        parser->flags |= change->on;
        parser->unicode = parser->unicode || unicode;
        bool both = parser->unicode && (parser->flags & PATTERN_ASCII);
        return !both ? ERR_OK
                     : scan_fail(&parser->scan, parser->scan.pos,
                                 "ASCII and UNICODE flags are incompatible");
    }
    parser->scan.pos++;
    change->off |= unicode ? PATTERN_ASCII : 0U;
    return ERR_OK;
}
