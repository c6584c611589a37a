/* Which hosts are never a target: the gateway itself, the backend, link-local and metadata
 * addresses, and what the configuration adds; less what it allows.
 *
 * The struct is the caller's memory and owns what its parts point to.
 *
 * The loop thread only. */
#ifndef FORWARDER_TARGETS_H
#define FORWARDER_TARGETS_H

#include "network.h"

/* A host, and one port or any. */
struct place {
    char *host; /* canonical */
    int port;   /* 0: any */
    bool is_local;
};

/* One entry of ALLOW_TARGETS. */
struct allowance {
    struct place place; /* host NULL: a network */
    bool below;         /* "*.": all names below the host, not the host itself */
    struct network network;
};

struct targets {
    bool deny_private, deny_ip_literals;
    struct allowance *allowances;
    size_t allowance_count;
    struct place *backends, *listeners;
    size_t backend_count, listener_count;
    struct network *own; /* addresses of this machine */
    size_t own_count;
};

struct targets_config {
    bool deny_private, deny_ip_literals;
    const char *allow;       /* comma-separated; NULL or "": nothing */
    const char *backends[3]; /* URLs; NULL: fewer */
};

#define TARGETS_MESSAGE_SIZE 160

/* ERR_INVALID writes one line into message. */
enum err
targets_init(struct targets *targets, const struct targets_config *config,
             char message[TARGETS_MESSAGE_SIZE]) MUST_CHECK;
void
targets_fini(struct targets *targets);
/* Where this gateway listens, as host:port, separated by spaces; replaces what was there. */
enum err
targets_set_listeners(struct targets *targets, const char *authorities) MUST_CHECK;
/* Why this host must not be a target, in words; NULL when it may be one.  The host is canonical
 * (url_canonical_host), without brackets. */
const char *
targets_refuse(const struct targets *targets, struct slice host, int port);

#endif
