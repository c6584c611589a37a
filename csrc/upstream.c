#include "upstream.h"

#include <stdio.h>
#include <string.h>

#include "mem.h"
#include "url.h"

#define PORT_MAX 65535
/* Some providers write a session's settings into the user name; this is far beyond them. */
#define CREDENTIAL_MAX 2048
/* What fits into the one-byte length of RFC 1929. */
#define SOCKS_CREDENTIAL_MAX 255
#define PROTOCOLS "http, https, socks4, socks4a, socks5 or socks5h"

static const char *const kind_names[] = {
    [UPSTREAM_HTTP] = "http",
    [UPSTREAM_HTTPS] = "https",
    [UPSTREAM_SOCKS4] = "socks4",
    [UPSTREAM_SOCKS4A] = "socks4a",
    [UPSTREAM_SOCKS5] = "socks5",
    [UPSTREAM_SOCKS5H] = "socks5h",
};

static bool
equal_ignoring_case(const char *text, const char *lower)
{
    for (; *text != '\0' && *lower != '\0'; text++, lower++) {
        char c = *text >= 'A' && *text <= 'Z' ? (char)(*text - 'A' + 'a') : *text;
        if (c != *lower) {
            return false;
        }
    }
    return *text == *lower;
}

static enum err
refuse(char message[UPSTREAM_MESSAGE_SIZE], const char *what)
{
    snprintf(message, UPSTREAM_MESSAGE_SIZE, "%s", what);
    return ERR_INVALID;
}

/* An absent protocol is http, as in the contract's example. */
static enum err
read_kind(const char *protocol, enum upstream_kind *out, char message[UPSTREAM_MESSAGE_SIZE])
{
    if (protocol == NULL) {
        *out = UPSTREAM_HTTP;
        return ERR_OK;
    }
    for (size_t i = 0; i < COUNT_OF(kind_names); i++) {
        if (equal_ignoring_case(protocol, kind_names[i])) {
            *out = (enum upstream_kind)i;
            return ERR_OK;
        }
    }
    return refuse(message, "protocol must be " PROTOCOLS);
}

/* Where the proxy is, as the backend wrote it. */
struct place {
    struct slice host;
    int64_t port;      /* -1 where it is nowhere */
    const char *field; /* that the host is from */
};

/* `ip` and `port` win, each for itself; `address` is read only where one of them is missing. */
static enum err
find_place(const struct wire_proxy *proxy, struct place *out, char message[UPSTREAM_MESSAGE_SIZE])
{
    struct place place = {.port = proxy->port, .field = "ip"};
    struct slice host = {NULL, 0};
    int port = -1;
    if (proxy->address != NULL && (proxy->ip == NULL || proxy->port < 0)) {
        struct slice address = {proxy->address, strlen(proxy->address)};
        if (url_split_authority(address, &host, &port)) {
            return refuse(message, "address must be host:port or [IPv6]:port");
        }
    }
    if (place.port < 0) {
        place.port = port;
    }
    if (proxy->ip != NULL) {
        place.host = (struct slice){proxy->ip, strlen(proxy->ip)};
    }
    else if (proxy->address != NULL) {
        place.host = host;
        place.field = "address";
    }
    else {
        return refuse(message, "ip and address are both missing");
    }
    *out = place;
    return ERR_OK;
}

static enum err
read_place(const struct wire_proxy *proxy, struct upstream *upstream,
           char message[UPSTREAM_MESSAGE_SIZE])
{
    struct place place = {.port = -1};
    struct buf host;
    bool is_ip;
    enum err err = find_place(proxy, &place, message);
    if (err) {
        return err;
    }
    if (place.port < 0) {
        return refuse(message, "port is missing");
    }
    if (place.port < 1 || place.port > PORT_MAX) {
        return refuse(message, "port must be an integer from 1 to 65535");
    }
    buf_init(&host, URL_HOST_MAX);
    err = url_canonical_host(place.host, &host, &is_ip);
    /* What a proxy auto-configuration calls "no proxy" must never pass for the name of one. */
    if (err == ERR_INVALID || equal_ignoring_case(buf_string(&host), "direct")) {
        snprintf(message, UPSTREAM_MESSAGE_SIZE, "%s holds no host name or IP address",
                 place.field);
        err = ERR_INVALID;
    }
    if (!err) {
        upstream->host = buf_take(&host, NULL);
        err = upstream->host == NULL ? ERR_MEMORY : ERR_OK;
    }
    upstream->port = (int)place.port;
    buf_fini(&host);
    return err;
}

/* A proxy that is dialled by `ip` still shows the certificate of its name. */
static enum err
read_tls_name(const struct wire_proxy *proxy, struct upstream *upstream)
{
    struct slice name;
    struct buf host;
    int port;
    bool is_ip;
    if (upstream->kind != UPSTREAM_HTTPS || proxy->ip == NULL || proxy->address == NULL) {
        return ERR_OK;
    }
    struct slice address = {proxy->address, strlen(proxy->address)};
    if (url_split_authority(address, &name, &port)) {
        return ERR_OK; /* nobody needs it: `ip` and `port` win */
    }
    buf_init(&host, URL_HOST_MAX);
    enum err err = url_canonical_host(name, &host, &is_ip);
    if (err == ERR_INVALID || (!err && is_ip)) {
        err = ERR_OK;
    }
    else if (!err) {
        upstream->tls_name = buf_take(&host, NULL);
        err = upstream->tls_name == NULL ? ERR_MEMORY : ERR_OK;
    }
    buf_fini(&host);
    return err;
}

static bool
has_control(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < ' ' || *text == 0x7f) {
            return true;
        }
    }
    return false;
}

static bool
fits(const char *text, size_t max)
{
    return !has_control(text) && strlen(text) <= max;
}

/* What the protocol can carry, so that no credential is sent cut short, or silently not at all. */
static enum err
check_credentials(enum upstream_kind kind, const char *username, const char *password,
                  char message[UPSTREAM_MESSAGE_SIZE])
{
    switch (kind) {
    case UPSTREAM_HTTP:
    case UPSTREAM_HTTPS:
        if (!fits(username, CREDENTIAL_MAX) || strchr(username, ':') != NULL) {
            return refuse(message, "username must be at most 2048 bytes without ':' and control "
                                   "characters");
        }
        if (!fits(password, CREDENTIAL_MAX)) {
            return refuse(message,
                          "password must be at most 2048 bytes without control characters");
        }
        break;
    case UPSTREAM_SOCKS4:
    case UPSTREAM_SOCKS4A:
        if (*password != '\0') {
            return refuse(message, "SOCKS4 knows no password");
        }
        if (!fits(username, SOCKS_CREDENTIAL_MAX)) {
            return refuse(message, "username of a SOCKS proxy must be at most 255 bytes without "
                                   "control characters");
        }
        break;
    case UPSTREAM_SOCKS5:
    case UPSTREAM_SOCKS5H:
        if (*username == '\0' || !fits(username, SOCKS_CREDENTIAL_MAX)) {
            return refuse(message, "username of a SOCKS proxy must be 1 to 255 bytes without "
                                   "control characters");
        }
        if (!fits(password, SOCKS_CREDENTIAL_MAX)) {
            return refuse(message, "password of a SOCKS proxy must be at most 255 bytes without "
                                   "control characters");
        }
        break;
    }
    return ERR_OK;
}

/* Both or none: an empty pair is none, and a missing or null half is empty. */
static enum err
read_credentials(const struct wire_proxy *proxy, struct upstream *upstream,
                 char message[UPSTREAM_MESSAGE_SIZE])
{
    const char *username = proxy->username != NULL ? proxy->username : "";
    const char *password = proxy->password != NULL ? proxy->password : "";
    if (*username == '\0' && *password == '\0') {
        return ERR_OK;
    }
    enum err err = check_credentials(upstream->kind, username, password, message);
    if (err) {
        return err;
    }
    upstream->username = mem_string(username);
    upstream->password = mem_string(password);
    return upstream->username == NULL || upstream->password == NULL ? ERR_MEMORY : ERR_OK;
}

enum err
upstream_from_proxy(struct wire_proxy *proxy, struct upstream *out,
                    char message[UPSTREAM_MESSAGE_SIZE])
{
    struct upstream upstream = {.id = {.kind = WIRE_ID_NONE}};
    enum err err = read_kind(proxy->protocol, &upstream.kind, message);
    if (!err) {
        err = read_place(proxy, &upstream, message);
    }
    if (!err) {
        err = read_tls_name(proxy, &upstream);
    }
    if (!err) {
        err = read_credentials(proxy, &upstream, message);
    }
    if (err) {
        upstream_fini(&upstream);
        return err;
    }
    upstream.id = proxy->id;
    proxy->id = (struct wire_id){.kind = WIRE_ID_NONE};
    *out = upstream;
    return ERR_OK;
}

static void
free_secret_string(char *string)
{
    mem_free_secret(string, string != NULL ? strlen(string) : 0);
}

void
upstream_fini(struct upstream *upstream)
{
    mem_free(upstream->host);
    mem_free(upstream->tls_name);
    free_secret_string(upstream->username);
    free_secret_string(upstream->password);
    wire_id_fini(&upstream->id);
    *upstream = (struct upstream){.id = {.kind = WIRE_ID_NONE}};
}

static enum err
copy_string(const char *from, char **to)
{
    *to = from != NULL ? mem_string(from) : NULL;
    return from != NULL && *to == NULL ? ERR_MEMORY : ERR_OK;
}

enum err
upstream_copy(const struct upstream *from, struct upstream *to)
{
    struct upstream copy = {.kind = from->kind, .port = from->port, .id = {.kind = WIRE_ID_NONE}};
    enum err err = copy_string(from->host, &copy.host);
    if (!err) {
        err = copy_string(from->username, &copy.username);
    }
    if (!err) {
        err = copy_string(from->password, &copy.password);
    }
    if (!err) {
        err = wire_id_copy(&from->id, &copy.id);
    }
    if (err) {
        upstream_fini(&copy);
        return err;
    }
    *to = copy;
    return ERR_OK;
}

const char *
upstream_kind_name(enum upstream_kind kind)
{
    return kind_names[kind];
}

static bool
strings_equal(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

bool
upstream_equal(const struct upstream *a, const struct upstream *b)
{
    return a->kind == b->kind && a->port == b->port && strings_equal(a->host, b->host)
           && strings_equal(a->tls_name, b->tls_name)
           && strings_equal(a->username, b->username) && strings_equal(a->password, b->password);
}
