/* The canonical form, step by step (what leaves the gateway is untouched by any of it):
 *
 *  1. scheme: lower case.
 *  2. host: url_canonical_host; an IPv6 address gets its brackets back.
 *  3. port: left out when it is the scheme's own.
 *  4. path, up to the first '?':
 *     a. every escape is decoded; one that is not two hexadecimal digits is ERR_INVALID;
 *     b. once more, for servers that decode twice; a '%' that starts no escape now is itself;
 *     c. a NUL or an overlong UTF-8 sequence after a. or b. is ERR_INVALID;
 *     d. '\' becomes '/', runs of '/' become one;
 *     e. "." and ".." segments go, with parameters behind them too ("..;x", as Java servers do);
 *     f. '%', '?', '#', space and what is not printable ASCII are written as %XX again.
 *  5. query, with its '?': escapes of unreserved characters are decoded, others get upper-case
 *     digits; a '%' that starts no escape is itself, for the web is full of them.
 *
 * An asterisk (OPTIONS *) has no path: "/" in the canonical form, nothing in the raw one.  Bytes
 * from 0x80 on are written as %XX in the raw form too, so that both are ASCII.  Characters that no
 * URL may hold unescaped but browsers send ('|', '{', '"'...) are taken as they are; spaces,
 * control bytes and '#' are ERR_INVALID, a path and query of more than URL_MAX bytes is ERR_LIMIT.
 */
#include "url.h"

#include <arpa/inet.h>
#include <string.h>

#define PORT_MAX 65535
#define LABEL_MAX 63
#define IPV4_PARTS 4
/* Every byte of the path may become three; the rest is scheme, host, brackets and port. */
#define TEXT_MAX (3 * URL_MAX + URL_HOST_MAX + 32)

static const char hex_digits[] = "0123456789ABCDEF";

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char
to_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool
is_alphanumeric(char c)
{
    return is_digit(c) || (to_lower(c) >= 'a' && to_lower(c) <= 'z');
}

/* -1 when c is no hexadecimal digit. */
static int
hex_value(char c)
{
    if (is_digit(c)) {
        return c - '0';
    }
    c = to_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static struct slice
slice_from(struct slice text, size_t start)
{
    return (struct slice){text.data + start, text.len - start};
}

/* The offset of the first such character, or the length. */
static size_t
find(struct slice text, char wanted)
{
    const char *found = text.len > 0 ? memchr(text.data, wanted, text.len) : NULL;
    return found != NULL ? (size_t)(found - text.data) : text.len;
}

/* --- hosts --- */

static enum err
canonical_ipv6(struct slice host, char out[URL_HOST_MAX + 1])
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (host.len >= sizeof text || memchr(host.data, '\0', host.len) != NULL) {
        return ERR_INVALID;
    }
    memcpy(text, host.data, host.len);
    text[host.len] = '\0';
    if (inet_pton(AF_INET6, text, &address) != 1) {
        return ERR_INVALID;
    }
    bool is_v4 = IN6_IS_ADDR_V4MAPPED(&address) || IN6_IS_ADDR_V4COMPAT(&address);
    const char *done = is_v4 ? inet_ntop(AF_INET, &address.s6_addr[12], out, URL_HOST_MAX + 1)
                             : inet_ntop(AF_INET6, &address, out, URL_HOST_MAX + 1);
    return done != NULL ? ERR_OK : ERR_INVALID;
}

/* One part of an IPv4 address in decimal, octal (leading 0) or hexadecimal (leading 0x), as
 * inet_aton(3) reads it. */
static enum err
read_ipv4_part(struct slice text, uint64_t *out)
{
    int base = 10;
    size_t i = 0;
    if (text.len > 1 && text.data[0] == '0') {
        bool is_hex = to_lower(text.data[1]) == 'x';
        base = is_hex ? 16 : 8;
        i = is_hex ? 2 : 1;
    }
    if (i == text.len) {
        return ERR_INVALID;
    }
    uint64_t value = 0;
    for (; i < text.len; i++) {
        int digit = hex_value(text.data[i]);
        if (digit < 0 || digit >= base) {
            return ERR_INVALID;
        }
        value = value * (uint64_t)base + (uint64_t)digit;
        if (value > UINT32_MAX) {
            return ERR_INVALID;
        }
    }
    *out = value;
    return ERR_OK;
}

/* One to four parts; the last fills all bytes that are left, so that "127.1" is 127.0.0.1. */
static enum err
canonical_ipv4(struct slice host, char out[URL_HOST_MAX + 1])
{
    uint64_t address = 0;
    for (unsigned parts = 1; parts <= IPV4_PARTS; parts++) {
        uint64_t part;
        size_t end = find(host, '.');
        bool is_last = end == host.len;
        uint64_t max = is_last ? (UINT64_C(1) << (8 * (IPV4_PARTS + 1 - parts))) - 1 : UINT8_MAX;
        if (read_ipv4_part((struct slice){host.data, end}, &part) || part > max) {
            return ERR_INVALID;
        }
        if (is_last) {
            struct in_addr network = {htonl((uint32_t)(address | part))};
            return inet_ntop(AF_INET, &network, out, URL_HOST_MAX + 1) != NULL ? ERR_OK
                                                                               : ERR_INVALID;
        }
        address |= part << (8 * (IPV4_PARTS - parts));
        host = slice_from(host, end + 1);
    }
    return ERR_INVALID;
}

/* Whether a resolver would take the host for an IPv4 address, well-formed or not (the check of the
 * same name in WHATWG URL). */
static bool
ends_in_number(struct slice host)
{
    size_t start = host.len;
    while (start > 0 && host.data[start - 1] != '.') {
        start--;
    }
    struct slice label = slice_from(host, start);
    bool is_hex = label.len > 1 && label.data[0] == '0' && to_lower(label.data[1]) == 'x';
    for (size_t i = is_hex ? 2 : 0; i < label.len; i++) {
        if (is_hex ? hex_value(label.data[i]) < 0 : !is_digit(label.data[i])) {
            return false;
        }
    }
    return label.len > 0;
}

static enum err
canonical_name(struct slice host, char out[URL_HOST_MAX + 1])
{
    size_t label_len = 0;
    for (size_t i = 0; i < host.len; i++) {
        char c = host.data[i];
        if (c == '.' && label_len > 0) {
            label_len = 0;
        }
        else if ((!is_alphanumeric(c) && c != '-' && c != '_') || ++label_len > LABEL_MAX) {
            return ERR_INVALID;
        }
        out[i] = to_lower(c);
    }
    out[host.len] = '\0';
    return label_len > 0 ? ERR_OK : ERR_INVALID;
}

enum err
url_canonical_host(struct slice host, struct buf *out, bool *is_ip)
{
    char text[URL_HOST_MAX + 1];
    enum err err;
    bool is_v6 = host.len > 0 && memchr(host.data, ':', host.len) != NULL;
    if (!is_v6 && host.len > 0 && host.data[host.len - 1] == '.') {
        host.len--;
    }
    if (host.len == 0 || host.len > URL_HOST_MAX) {
        return ERR_INVALID;
    }
    bool is_v4 = !is_v6 && ends_in_number(host);
    if (is_v6) {
        err = canonical_ipv6(host, text);
    }
    else if (is_v4) {
        err = canonical_ipv4(host, text);
    }
    else {
        err = canonical_name(host, text);
    }
    if (!err) {
        err = buf_append_string(out, text);
    }
    if (!err) {
        *is_ip = is_v6 || is_v4;
    }
    return err;
}

/* Digits without sign or leading zero; an empty port is the scheme's own (RFC 3986, 3.2.3). */
static enum err
read_port(struct slice text, int *out)
{
    int port = 0;
    if (text.len == 0) {
        *out = -1;
        return ERR_OK;
    }
    if (text.data[0] == '0') {
        return ERR_INVALID;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (!is_digit(text.data[i])) {
            return ERR_INVALID;
        }
        port = 10 * port + (text.data[i] - '0');
        if (port > PORT_MAX) {
            return ERR_INVALID;
        }
    }
    *out = port;
    return ERR_OK;
}

enum err
url_split_authority(struct slice text, struct slice *host, int *port)
{
    struct slice name = {text.data, find(text, ':')};
    size_t rest = name.len;
    int number = -1;
    if (text.len > 0 && text.data[0] == '[') {
        size_t close = find(text, ']');
        name = (struct slice){text.data + 1, close - 1};
        rest = close + 1;
        /* Only IPv6 stands in brackets: not a name, not IPv4. */
        if (close == text.len || find(name, ':') == name.len) {
            return ERR_INVALID;
        }
    }
    if (name.len == 0) {
        return ERR_INVALID;
    }
    if (rest < text.len) {
        if (text.data[rest] != ':' || read_port(slice_from(text, rest + 1), &number)) {
            return ERR_INVALID;
        }
    }
    *host = name;
    *port = number;
    return ERR_OK;
}

/* --- paths --- */

/* The value of the escape at text[i], or -1. */
static int
escape_at(struct slice text, size_t i)
{
    if (text.data[i] != '%' || text.len - i < 3) {
        return -1;
    }
    int high = hex_value(text.data[i + 1]), low = hex_value(text.data[i + 2]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* C0, C1, E0 8x/9x and F0 8x begin a UTF-8 sequence that is longer than it need be: "%c0%af" is a
 * hidden '/'. */
static bool
is_overlong(const char *text, size_t len)
{
    for (size_t i = 0; i + 1 < len; i++) {
        unsigned char first = (unsigned char)text[i], second = (unsigned char)text[i + 1];
        bool continues = second >= 0x80 && second < 0xc0;
        if (continues
            && (first == 0xc0 || first == 0xc1 || (first == 0xe0 && second < 0xa0)
                || (first == 0xf0 && second < 0x90))) {
            return true;
        }
    }
    return false;
}

/* In place.  `strict`: a '%' that starts no escape is an error. */
static enum err
decode_escapes(char *text, size_t *len, bool strict)
{
    size_t end = 0;
    for (size_t i = 0; i < *len; i++) {
        int value = escape_at((struct slice){text, *len}, i);
        if (value == 0 || (value < 0 && strict && text[i] == '%')) {
            return ERR_INVALID;
        }
        if (value > 0) {
            text[end++] = (char)value;
            i += 2;
        }
        else {
            text[end++] = text[i];
        }
    }
    *len = end;
    return is_overlong(text, end) ? ERR_INVALID : ERR_OK;
}

/* 1 for ".", 2 for "..", else 0; parameters do not count. */
static int
count_dots(struct slice segment)
{
    struct slice name = {segment.data, find(segment, ';')};
    bool all_dots = name.len <= 2 && memcmp(name.data, "..", name.len) == 0;
    return all_dots ? (int)name.len : 0;
}

/* In place; the path starts with '/' before and after.  Returns the new length. */
static size_t
resolve_segments(char *path, size_t len)
{
    size_t out = 0;
    for (size_t i = 0; i < len; i++) {
        if (path[i] == '\\') {
            path[i] = '/';
        }
    }
    for (size_t i = 0; i < len;) {
        struct slice rest = {path + i + 1, len - i - 1};
        struct slice segment = {rest.data, find(rest, '/')};
        int dots = count_dots(segment);
        i += 1 + segment.len;
        if (dots == 2) {
            while (out > 0 && path[--out] != '/') {
                continue;
            }
        }
        bool stays = dots == 0 && segment.len > 0;
        if (stays || i == len) {
            path[out++] = '/';
        }
        if (stays) {
            memmove(path + out, segment.data, segment.len);
            out += segment.len;
        }
    }
    return out;
}

/* In place: escapes of unreserved characters (RFC 3986, 2.3) decoded, others with upper-case
 * digits. */
static size_t
normalize_query(char *text, size_t len)
{
    size_t end = 0;
    for (size_t i = 0; i < len; i++) {
        int value = escape_at((struct slice){text, len}, i);
        if (value > 0 && (is_alphanumeric((char)value) || strchr("-._~", value) != NULL)) {
            text[end++] = (char)value;
            i += 2;
        }
        else if (value >= 0) {
            text[end++] = '%';
            text[end++] = hex_digits[value >> 4];
            text[end++] = hex_digits[value & 15];
            i += 2;
        }
        else {
            text[end++] = text[i];
        }
    }
    return end;
}

static bool
is_ascii(char c)
{
    return (unsigned char)c < 0x80;
}

/* What stands for itself in a canonical path. */
static bool
is_plain(char c)
{
    return c > ' ' && c < 0x7f && c != '%' && c != '?' && c != '#';
}

static enum err
append_escape(struct buf *out, unsigned char byte)
{
    return buf_append(out, (char[]){'%', hex_digits[byte >> 4], hex_digits[byte & 15]}, 3);
}

/* Bytes that are not `kept` as %XX. */
static enum err
append_escaped(struct buf *out, struct slice text, bool (*kept)(char))
{
    enum err err = ERR_OK;
    size_t run = 0;
    for (size_t i = 0; i < text.len && !err; i++) {
        if (!kept(text.data[i])) {
            err = buf_append(out, text.data + run, i - run);
            if (!err) {
                err = append_escape(out, (unsigned char)text.data[i]);
            }
            run = i + 1;
        }
    }
    return err ? err : buf_append_slice(out, slice_from(text, run));
}

static enum err
append_canonical_path(struct slice target, struct buf *out)
{
    char text[URL_MAX];
    memcpy(text, target.data, target.len);
    size_t path_len = find(target, '?'), len = path_len;
    enum err err = decode_escapes(text, &len, true);
    if (!err) {
        err = decode_escapes(text, &len, false);
    }
    if (err) {
        return err;
    }
    len = resolve_segments(text, len);
    err = append_escaped(out, (struct slice){text, len}, is_plain);
    if (err) {
        return err;
    }
    len = normalize_query(text + path_len, target.len - path_len);
    return append_escaped(out, (struct slice){text + path_len, len}, is_ascii);
}

/* --- URLs --- */

static bool
scheme_is(struct slice scheme, const char *name)
{
    size_t i = 0;
    while (i < scheme.len && name[i] != '\0' && to_lower(scheme.data[i]) == name[i]) {
        i++;
    }
    return i == scheme.len && name[i] == '\0';
}

/* Whether the bytes of a path and query can stand in a request line at all. */
static enum err
check_path(struct slice path)
{
    if (path.len > URL_MAX) {
        return ERR_LIMIT;
    }
    for (size_t i = 0; i < path.len; i++) {
        unsigned char c = (unsigned char)path.data[i];
        if (c <= ' ' || c == 0x7f || c == '#') {
            return ERR_INVALID;
        }
    }
    return path.len > 0 && path.data[0] == '/' ? ERR_OK : ERR_INVALID;
}

/* scheme://host[:port]; appended in pieces, for formatting would take longer than all the rest. */
static enum err
append_origin(const struct url_parts *parts, struct slice host, struct buf *out)
{
    bool is_https = scheme_is(parts->scheme, "https");
    bool is_v6 = find(host, ':') < host.len;
    enum err err = buf_append_string(out, is_https ? "https://" : "http://");
    if (!err && is_v6) {
        err = buf_append_char(out, '[');
    }
    if (!err) {
        err = buf_append_slice(out, host);
    }
    if (!err && is_v6) {
        err = buf_append_char(out, ']');
    }
    if (!err && parts->port != (is_https ? 443 : 80)) {
        err = buf_append_format(out, ":%d", parts->port);
    }
    return err;
}

/* The target of OPTIONS *, which stands for the server as a whole. */
static bool
is_asterisk(struct slice path)
{
    return path.len == 1 && path.data[0] == '*';
}

static enum err
check_parts(const struct url_parts *parts)
{
    bool is_known = scheme_is(parts->scheme, "http") || scheme_is(parts->scheme, "https");
    if (!is_known || parts->port < 1 || parts->port > PORT_MAX) {
        return ERR_INVALID;
    }
    return is_asterisk(parts->path) ? ERR_OK : check_path(parts->path);
}

enum err
url_build(const struct url_parts *parts, struct url *out)
{
    struct url url = {.host_is_ip = false};
    struct buf host;
    bool has_path = !is_asterisk(parts->path);
    enum err err = check_parts(parts);
    if (err) {
        return err;
    }
    buf_init(&host, URL_HOST_MAX);
    buf_init(&url.raw, TEXT_MAX);
    buf_init(&url.canonical, TEXT_MAX);
    err = url_canonical_host(parts->host, &host, &url.host_is_ip);
    if (!err) {
        err = append_origin(parts, parts->host, &url.raw);
    }
    if (!err) {
        err = append_origin(parts, buf_slice(&host), &url.canonical);
    }
    if (!err && has_path) {
        err = append_escaped(&url.raw, parts->path, is_ascii);
    }
    if (!err) {
        err = append_canonical_path(has_path ? parts->path : SLICE_LITERAL("/"), &url.canonical);
    }
    buf_fini(&host);
    if (err) {
        url_fini(&url);
        return err;
    }
    *out = url;
    return ERR_OK;
}

void
url_fini(struct url *url)
{
    buf_fini(&url->raw);
    buf_fini(&url->canonical);
}

struct slice
url_host(const struct url *url, int *port)
{
    struct slice text =
        slice_from(buf_slice(&url->canonical), find(buf_slice(&url->canonical), '/') + 2);
    *port = buf_string(&url->canonical)[4] == 's' ? 443 : 80;
    struct slice host = {text.data, find(text, '/')};
    int explicit_port;
    if (url_split_authority((struct slice){text.data, host.len}, &host, &explicit_port) == ERR_OK
        && explicit_port >= 0) {
        *port = explicit_port;
    }
    return host;
}

/* Whether c ends an authority in the eyes of any reader. */
static bool
ends_authority(char c)
{
    return c == '/' || c == '\\' || c == '?' || c == '#';
}

enum err
url_append_loggable(struct slice raw, struct buf *out)
{
    size_t start = 0;
    while (start < raw.len && raw.data[start] != '@' && !ends_authority(raw.data[start])) {
        start++;
    }
    /* A "://" further on, in a path or query, begins no authority. */
    bool has_scheme =
        start > 0 && raw.len - start >= 2 && memcmp(raw.data + start - 1, "://", 3) == 0;
    start = has_scheme ? start + 2 : 0;
    size_t end = start, host = start;
    /* The last '@' of the authority ends the user information, whatever stands in it. */
    for (; end < raw.len && !ends_authority(raw.data[end]); end++) {
        host = raw.data[end] == '@' ? end + 1 : host;
    }
    while (end < raw.len && raw.data[end] != '?' && raw.data[end] != '#') {
        end++;
    }
    return buf_append_format(out, "%.*s%.*s%s", (int)start, raw.data, (int)(end - host),
                             raw.data + host, end < raw.len ? "?…" : "");
}
