/* The upstream proxy that the backend chose, checked before use.
 *
 * A struct upstream owns its strings and overwrites the password when it goes.
 *
 * Any thread. */
#ifndef FORWARDER_UPSTREAM_H
#define FORWARDER_UPSTREAM_H

#include "wire.h"

enum upstream_kind {
    UPSTREAM_HTTP,
    UPSTREAM_HTTPS, /* TLS to the proxy */
    UPSTREAM_SOCKS4,
    UPSTREAM_SOCKS4A,
    UPSTREAM_SOCKS5, /* as socks5h: names are resolved by the proxy */
    UPSTREAM_SOCKS5H,
};

struct upstream {
    enum upstream_kind kind;
    char *host;                /* a name or an IP literal without brackets, terminated */
    int port;                  /* 1..65535 */
    char *tls_name;            /* whom the proxy's certificate must name, where that is not host */
    char *username, *password; /* NULL where there are none */
    struct wire_id id;
};

#define UPSTREAM_MESSAGE_SIZE 160

/* Takes the id out of `proxy`; `ip` and `port` win over `address`, whose name is still the one that
 * the certificate of an https proxy must hold.  ERR_INVALID writes one line that names the
 * field. */
enum err
upstream_from_proxy(struct wire_proxy *proxy, struct upstream *out,
                    char message[UPSTREAM_MESSAGE_SIZE]) MUST_CHECK;
enum err
upstream_copy(const struct upstream *from, struct upstream *to) MUST_CHECK;
void
upstream_fini(struct upstream *upstream);
/* "http", "https", "socks4", … */
const char *
upstream_kind_name(enum upstream_kind kind);
/* Same kind, host, port, TLS name and credentials. */
bool
upstream_equal(const struct upstream *a, const struct upstream *b);

#endif
