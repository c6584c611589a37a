#include "pattern_scan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LAST_CHARACTER 0x10ffff
#define LAST_OCTAL 0377

enum err
scan_fail(struct scan *scan, size_t position, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    scan->error->position = position;
    vsnprintf(scan->error->message, sizeof scan->error->message, format, args);
    va_end(args);
    /* What is quoted from a pattern may hold anything, and a message is one line of a log. */
    for (char *c = scan->error->message; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f) {
            *c = '?';
        }
    }
    return ERR_INVALID;
}

static bool
is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool
is_octal(int c)
{
    return c >= '0' && c <= '7';
}

static bool
is_letter(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int
hex_value(int c)
{
    if (is_digit(c)) {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

uint32_t
scan_char(struct scan *scan)
{
    unsigned lead = scan->text[scan->pos++];
    unsigned more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (more == 0 || scan->len - scan->pos < more) {
        return lead;
    }
    uint32_t c = lead & (0x3fU >> more);
    for (unsigned i = 0; i < more; i++) {
        unsigned next = scan->text[scan->pos + i];
        if ((next & 0xc0) != 0x80) {
            return lead;
        }
        c = c << 6 | (next & 0x3f);
    }
    scan->pos += more;
    return c;
}

enum err
scan_skip_past(struct scan *scan, char terminator, bool *found)
{
    *found = false;
    while (!*found && scan->pos < scan->len) {
        int c = scan->text[scan->pos++];
        *found = c == (unsigned char)terminator;
        if (c == '\\' && scan->pos++ == scan->len) {
            return scan_fail(scan, scan->len - 1, "bad escape (end of pattern)");
        }
    }
    return ERR_OK;
}

bool
scan_number(struct scan *scan, uint32_t *number)
{
    uint64_t value = 0;
    size_t begin = scan->pos;
    for (; is_digit(scan_peek(scan)); scan->pos++) {
        value = value * 10 + (uint64_t)(scan_peek(scan) - '0');
        value = value < PATTERN_UNLIMITED ? value : PATTERN_UNLIMITED;
    }
    if (scan->pos == begin) {
        return false;
    }
    *number = (uint32_t)value;
    return true;
}

/* --- escapes --- */

static int
escape_span(const struct scan *scan, size_t begin)
{
    return (int)(scan->pos - begin);
}

static const char *
escape_text(const struct scan *scan, size_t begin)
{
    return (const char *)scan->text + begin;
}

/* \x \u \U: exactly that many digits. */
static enum err
escape_hex(struct scan *scan, size_t begin, int digits, uint32_t *value)
{
    uint32_t c = 0;
    int count = 0;
    for (; count < digits && hex_value(scan_peek(scan)) >= 0; count++) {
        c = c << 4 | (uint32_t)hex_value(scan_peek(scan));
        scan->pos++;
    }
    if (count < digits) {
        return scan_fail(scan, begin, "incomplete escape %.*s", escape_span(scan, begin),
                         escape_text(scan, begin));
    }
    if (c > LAST_CHARACTER) {
        return scan_fail(scan, begin, "bad escape %.*s", escape_span(scan, begin),
                         escape_text(scan, begin));
    }
    *value = c;
    return ERR_OK;
}

/* Up to `digits` octal ones from where the scan stands. */
static enum err
escape_octal(struct scan *scan, size_t begin, int digits, uint32_t *value)
{
    uint32_t c = 0;
    for (int i = 0; i < digits && is_octal(scan_peek(scan)); i++) {
        c = c << 3 | (uint32_t)(scan_peek(scan) - '0');
        scan->pos++;
    }
    if (c > LAST_OCTAL) {
        return scan_fail(scan, begin, "octal escape value %.*s outside of range 0-0o377",
                         escape_span(scan, begin), escape_text(scan, begin));
    }
    *value = c;
    return ERR_OK;
}

/* Three octal digits are a character, else up to two decimal ones are a group. */
static enum err
escape_digit(struct scan *scan, size_t begin, struct scan_escape *out)
{
    const unsigned char *text = scan->text + scan->pos;
    size_t left = scan->len - scan->pos;
    if (left >= 3 && is_octal(text[0]) && is_octal(text[1]) && is_octal(text[2])) {
        out->kind = SCAN_LITERAL;
        return escape_octal(scan, begin, 3, &out->value);
    }
    out->kind = SCAN_BACKREF;
    out->value = text[0] - (uint32_t)'0';
    scan->pos++;
    if (left >= 2 && is_digit(text[1])) {
        out->value = out->value * 10 + text[1] - '0';
        scan->pos++;
    }
    return ERR_OK;
}

static enum err
escape_letter(struct scan *scan, size_t begin, bool in_class, struct scan_escape *out)
{
    static const char controls[] = "a\ab\bf\fn\nr\rt\tv\v";
    char c = (char)scan->text[scan->pos++];
    const char *control = strchr(controls, c);
    out->kind = SCAN_LITERAL;
    if (c == 'x' || c == 'u' || c == 'U') {
        return escape_hex(scan, begin, c == 'x' ? 2 : c == 'u' ? 4 : 8, &out->value);
    }
    if (c == 'N') {
        return scan_fail(scan, begin, "a character by its name (\\N) is not supported");
    }
    if (strchr("dDsSwW", c) != NULL) {
        out->kind = SCAN_CATEGORY;
        out->value = (unsigned char)c;
    }
    else if (!in_class && strchr("AbBZ", c) != NULL) {
        out->kind = SCAN_ANCHOR;
        out->value = (unsigned char)c;
    }
    else if (control != NULL) {
        out->value = (unsigned char)control[1];
    }
    else {
        return scan_fail(scan, begin, "bad escape \\%c", c);
    }
    return ERR_OK;
}

enum err
scan_escape(struct scan *scan, bool in_class, struct scan_escape *out)
{
    size_t begin = scan->pos++;
    int c = scan_peek(scan);
    if (c < 0) {
        return scan_fail(scan, begin, "bad escape (end of pattern)");
    }
    if (is_letter(c)) {
        return escape_letter(scan, begin, in_class, out);
    }
    out->kind = SCAN_LITERAL;
    if (c == '0' || (in_class && is_octal(c))) {
        return escape_octal(scan, begin, 3, &out->value);
    }
    if (is_digit(c)) {
        return in_class ? scan_fail(scan, begin, "bad escape \\%c", c)
                        : escape_digit(scan, begin, out);
    }
    out->value = scan_char(scan);
    return ERR_OK;
}
