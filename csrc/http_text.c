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

void
http_text_clean(char *text)
{
    for (char *c = text; *c != '\0'; c++) {
        if (is_control(*c)) {
            *c = ' ';
        }
    }
}
