/* The request target: parsed strictly, and in the canonical form that rules are matched against.
 *
 * A struct url owns its two strings.  The canonical form is for matching only: what leaves is what
 * the client sent.
 *
 * Any thread. */
#ifndef FORWARDER_URL_H
#define FORWARDER_URL_H

#include "buf.h"

#define URL_MAX 8192
#define URL_HOST_MAX 253

/* The parts as mitmproxy read them; borrowed. */
struct url_parts {
    struct slice scheme; /* "http" or "https" */
    struct slice host;   /* a name in ASCII (A-labels) or an IP literal, without brackets */
    int port;            /* 1..65535 */
    struct slice path;   /* path and query, or "*" */
};

struct url {
    struct buf raw;       /* scheme://host[:port]path, port left out when it is the scheme's own */
    struct buf canonical; /* lower case, no trailing dot, IP normalised, dot segments and escapes
                             resolved */
    bool host_is_ip;
};

/* ERR_INVALID for anything that cannot be read without doubt (the answer is 400, never "allow"). */
enum err
url_build(const struct url_parts *parts, struct url *out) MUST_CHECK;
void
url_fini(struct url *url);

/* Host (without brackets) and port of the canonical form; borrowed. */
struct slice
url_host(const struct url *url, int *port);

/* A host in canonical form: lower case, one trailing dot off, IPv4 in any spelling as dotted quad,
 * IPv6 as RFC 5952, v4-mapped as v4.  ERR_INVALID for empty or over-long labels, bytes outside the
 * LDH set and '_', bad numbers. */
enum err
url_canonical_host(struct slice host, struct buf *out, bool *is_ip) MUST_CHECK;

/* "host", "host:port" or "[v6]:port" into its parts; *port is -1 when absent.  Host is borrowed
 * from text. */
enum err
url_split_authority(struct slice text, struct slice *host, int *port) MUST_CHECK;

/* The URL as it may be logged: without user information, and "?…" in place of a query. */
enum err
url_append_loggable(struct slice raw, struct buf *out) MUST_CHECK;

#endif
