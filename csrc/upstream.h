/* The upstream proxy that the backend chose, checked before use.
 *
 * A struct upstream owns its strings and overwrites the password when it goes.
 *
 * Any thread. */
#ifndef FORWARDER_UPSTREAM_H
#define FORWARDER_UPSTREAM_H

#include "wire.h"

enum upstream_kind { UPSTREAM_HTTP, UPSTREAM_HTTPS };

struct upstream {
    enum upstream_kind kind;
    char *host;                /* a name or an IP literal without brackets, terminated */
    int port;                  /* 1..65535 */
    char *username, *password; /* NULL where there are none */
    struct wire_id id;
};

#define UPSTREAM_MESSAGE_SIZE 160

/* Takes the id out of `proxy`; `ip` and `port` win over `address`.  ERR_INVALID writes one line
 * that names the field. */
enum err
upstream_from_proxy(struct wire_proxy *proxy, struct upstream *out,
                    char message[UPSTREAM_MESSAGE_SIZE]) MUST_CHECK;
enum err
upstream_copy(const struct upstream *from, struct upstream *to) MUST_CHECK;
void
upstream_fini(struct upstream *upstream);
/* "http", "https". */
const char *
upstream_kind_name(enum upstream_kind kind);
/* Same kind, host, port and credentials. */
bool
upstream_equal(const struct upstream *a, const struct upstream *b);

#endif
