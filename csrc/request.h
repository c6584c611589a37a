/* One request as the engine sees it: what was asked, where it stands, what was decided.
 *
 * The request owns everything in it.  The engine links it into one of its lists while it waits or
 * has just been decided.
 *
 * The loop thread only. */
#ifndef FORWARDER_REQUEST_H
#define FORWARDER_REQUEST_H

#include "clock.h"
#include "engine.h"
#include "lookup.h"
#include "permits.h"
#include "token.h"

enum request_state {
    REQUEST_WAITS_FOR_RULES, /* the first list has not come yet */
    REQUEST_WAITS_FOR_PERMIT,
    REQUEST_WAITS_FOR_LOOKUP,
    REQUEST_WAITS_FOR_LEASE, /* somebody else has asked the same */
    REQUEST_DECIDED,
};

#define REQUEST_OTHER_HOSTS 3

struct request {
    enum request_state state;
    struct link
        link; /* in a list of those that wait for rules or for a lease, or of those just decided */
    struct link live; /* in the engine's list of those that have not ended */
    struct permit permit;
    struct lookup *lookup; /* borrowed while the reactor has it */
    void *owner;

    char id[CLOCK_UUID_SIZE];
    char *method;
    struct url url;
    /* The same with the host that the Host header, the authority or the SNI names, canonical;
     * empty: they agree. */
    struct buf other_urls[REQUEST_OTHER_HOSTS];
    struct buf loggable;
    struct token token;
    bool takes_authorization;
    bool forward_authorization;
    int64_t started_ms, deadline_ms;
    double started_wall;

    enum reason reason;
    char detail[LOOKUP_MESSAGE_SIZE];
    struct upstream upstream; /* the last one chosen */
    bool routed;
    struct upstream *tried; /* earlier ones, never to be taken again */
    size_t tried_count;
    unsigned tries; /* lookups sent */
    struct wire_id user_id;

    bool recorded, finished;
};

/* What a token is chosen by. */
struct request_policy {
    const struct token *default_token; /* may be empty */
    bool require_token;
    bool forward_authorization;
    int timeout_ms;
};

/* Reads target and token.  A request that cannot go on has its reason set, and is otherwise
 * complete enough to be answered, logged and recorded. */
enum err
request_create(const struct request_input *input, const struct request_policy *policy, void *owner,
               struct request **out) MUST_CHECK;
void
request_destroy(struct request *request);
/* Puts the upstream in use aside, as one never to be taken again. */
enum err
request_set_aside(struct request *request) MUST_CHECK;
bool
request_has_tried(const struct request *request, const struct upstream *upstream);

#endif
