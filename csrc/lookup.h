/* GET /proxy: asks the backend, in the name of a user, for an upstream proxy.
 *
 * A struct lookup is made by the loop, given to the reactor by lookup_send and comes back as an
 * EVENT_LOOKUP; whoever holds it owns all in it.
 *
 * lookup_create, lookup_send, lookup_destroy: the loop.  What happens between: the reactor. */
#ifndef FORWARDER_LOOKUP_H
#define FORWARDER_LOOKUP_H

#include "breaker.h"
#include "event.h"
#include "reactor.h"
#include "reason.h"
#include "stats.h"
#include "token.h"
#include "upstream.h"

#define LOOKUP_MESSAGE_SIZE 200

/* What all lookups of an engine share. */
struct lookup_service {
    struct reactor *reactor;
    struct mailbox *outbox; /* to the loop */
    const char *url; /* of the endpoint, without the query of ours; borrowed from the engine */
    struct breaker breaker; /* the reactor's */
};

struct lookup {
    struct event event;
    struct reactor_task task;
    struct lookup_service *service;
    void *owner; /* the loop's: the request, or NULL once it has lost interest */
    int64_t deadline_ms;
    struct buf url;
    struct buf authorization; /* empty: ask without a user */
    struct buf lease_key;     /* the loop's; empty: nobody waits for this answer */
    struct http_call call;
    /* out */
    enum reason reason;  /* REASON_NONE: upstream is set */
    bool token_accepted; /* the backend knew the user: 200, 403 or 404 */
    struct upstream upstream;
    struct wire_id user_id;
    int64_t lease_ms; /* how long the backend lets this answer be used again */
    char message[LOOKUP_MESSAGE_SIZE]; /* one line for the log and the answer's detail; holds no
                                          secret */
};

void
lookup_service_init(struct lookup_service *service, struct reactor *reactor, struct mailbox *outbox,
                    const char *url);
/* token may be empty. */
enum err
lookup_create(struct lookup_service *service, struct slice target_url, struct slice token,
              int64_t deadline_ms, struct lookup **out) MUST_CHECK;
/* ERR_CLOSED: the reactor is stopping and the lookup is still the caller's. */
enum err
lookup_send(struct lookup *lookup) MUST_CHECK;
void
lookup_destroy(struct lookup *lookup);

#endif
