/* Why the gateway answers a request itself.  The names are the `error` codes of the answers;
 * status, wording and Proxy-Status of each are in mitm_forwarder/errors.py (a test keeps both lists
 * equal).
 *
 * Owns nothing.
 *
 * Any thread. */
#ifndef FORWARDER_REASON_H
#define FORWARDER_REASON_H

#include "base.h"

#define REASONS(X)                                                                                 \
    X(no_token, "no user token, and one is required")                                              \
    X(bad_token, "a user token that is not well-formed")                                           \
    X(token_refused, "the backend answered 401")                                                   \
    X(blacklisted, "a rule matched, or hit a limit")                                               \
    X(target_refused, "the backend answered 403")                                                  \
    X(target_denied, "an address that is never a target")                                          \
    X(no_proxy, "the backend answered 404")                                                        \
    X(proxy_not_working, "is_working is false")                                                    \
    X(bad_answer, "the backend's answer cannot be used")                                           \
    X(backend_unreachable, "no connection, or it died")                                            \
    X(backend_error, "5xx, or a status outside the contract")                                      \
    X(backend_timeout, "no answer in time")                                                        \
    X(overloaded, "no permit in time")                                                             \
    X(no_rules, "no rule set was ever loaded")                                                     \
    X(stale_rules, "the rule set is older than allowed")                                           \
    X(spool_full, "the activity spool takes no record")                                            \
    X(client_gone, "the client did not wait")                                                      \
    X(shutting_down, "the gateway is stopping")                                                    \
    X(bad_request, "a request target that cannot be read without doubt")                           \
    X(misdirected, "target and Host disagree inside a tunnel")                                     \
    X(internal, "out of memory, or a fault of our own")

enum reason {
    REASON_NONE, /* not answered by us: a route was chosen */
#define REASON_ENUM(name, meaning) REASON_##name,
    REASONS(REASON_ENUM)
#undef REASON_ENUM
        REASON_COUNT
};

/* "no_token", …; NULL for REASON_NONE. */
const char *
reason_name(enum reason reason);

#endif
