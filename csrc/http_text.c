#include "http_text.h"

#include <string.h>
#include <strings.h>

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool
is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

bool
http_text_is_value(const char *text)
{
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++) {
        if (is_control(text[i]) && text[i] != '\t') {
            return false;
        }
    }
    /* Blanks at the ends belong to the line, not to the value; an empty header libcurl leaves out.
     */
    return len > 0 && !is_blank(text[0]) && !is_blank(text[len - 1]);
}

bool
http_text_is_url(const char *text)
{
    if (strncasecmp(text, "http://", 7) != 0 && strncasecmp(text, "https://", 8) != 0) {
        return false;
    }
    for (const char *c = text; *c != '\0'; c++) {
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f) {
            return false;
        }
    }
    return true;
}

bool
http_text_is_etag(const char *text)
{
    const char *c = strncmp(text, "W/", 2) == 0 ? text + 2 : text;
    if (*c != '"') {
        return false;
    }
    for (c++; *c != '"'; c++) {
        if (is_control(*c) || *c == ' ') { /* the NUL at the end is a control byte as well */
            return false;
        }
    }
    return c[1] == '\0';
}

int64_t
http_text_seconds(const char *text, size_t len)
{
    int64_t seconds = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return -1;
        }
        seconds = seconds > INT32_MAX / 10 ? INT32_MAX : seconds * 10 + (text[i] - '0');
    }
    return len > 0 ? seconds : -1;
}

/* "max-age=5", or with the number in quotes, which some senders write. */
static int64_t
max_age_s(const char *value, size_t len)
{
    if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
        value++;
        len -= 2;
    }
    int64_t seconds = http_text_seconds(value, len);
    return seconds < 0 ? 0 : seconds;
}

static bool
is_directive(const char *text, size_t len, const char *name)
{
    return len == strlen(name) && strncasecmp(text, name, len) == 0;
}

int64_t
http_text_fresh_s(const char *cache_control)
{
    int64_t fresh_s = -1;
    const char *c = cache_control;
    while (*c != '\0') {
        c += strspn(c, ", \t");
        size_t len = strcspn(c, ",");
        const char *next = c + len;
        while (len > 0 && is_blank(c[len - 1])) {
            len--;
        }
        const char *equals = memchr(c, '=', len);
        size_t name_len = equals != NULL ? (size_t)(equals - c) : len;
        if (is_directive(c, name_len, "no-store") || is_directive(c, name_len, "no-cache")) {
            return 0;
        }
        if (is_directive(c, name_len, "max-age")) {
            int64_t age_s = equals != NULL ? max_age_s(equals + 1, len - name_len - 1) : 0;
            /* Twice: the shorter one is the safe one. */
            fresh_s = fresh_s < 0 || age_s < fresh_s ? age_s : fresh_s;
        }
        c = next;
    }
    return fresh_s;
}

void
http_text_clean(char *text)
{
    for (char *c = text; *c != '\0'; c++) {
        if (is_control(*c)) {
            *c = ' ';
        }
    }
}

static enum err
append_escaped(struct buf *out, unsigned char c)
{
    static const char hex[] = "0123456789ABCDEF";
    static const char unreserved[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    if (c != '\0' && strchr(unreserved, c) != NULL) {
        return buf_append_char(out, (char)c);
    }
    char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};
    return buf_append(out, escaped, sizeof escaped);
}

enum err
http_text_append_query_value(struct buf *out, struct slice text)
{
    struct buf value;
    enum err err = ERR_OK;
    buf_init(&value, out->max);
    for (size_t i = 0; i < text.len && !err; i++) {
        err = append_escaped(&value, (unsigned char)text.data[i]);
    }
    if (!err) {
        err = buf_append_slice(out, buf_slice(&value));
    }
    buf_fini(&value);
    return err;
}
