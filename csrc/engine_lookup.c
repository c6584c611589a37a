/* Where a request's upstream proxy comes from: a lease, the answer that somebody else waits for, or
 * a call to the backend. */
#include <stdio.h>
#include <string.h>

#include "engine_state.h"
#include "mem.h"
#include "request.h"

#define KEY_MAX (4 * URL_MAX + TOKEN_MAX + 1)

static_assert(LEASE_MESSAGE_SIZE == LOOKUP_MESSAGE_SIZE, "messages are passed on");

void
engine_decide(struct engine *engine, struct request *request, enum reason reason,
              const char *detail)
{
    request->reason = reason;
    request->state = REQUEST_DECIDED;
    if (detail != NULL) {
        snprintf(request->detail, sizeof request->detail, "%s", detail);
    }
    switch (reason) {
    case REASON_NONE:
        stats_add(&engine->stats, request->tries <= 1 ? STATS_routed : STATS_retried, 1);
        break;
    case REASON_blacklisted:
    case REASON_target_denied:
        stats_add(&engine->stats, STATS_blocked, 1);
        break;
    case REASON_no_token:
    case REASON_bad_token:
    case REASON_token_refused:
        stats_add(&engine->stats, STATS_unauthorized, 1);
        break;
    case REASON_client_gone:
        break; /* nobody was answered */
    case REASON_overloaded:
        stats_add(&engine->stats, STATS_overloaded, 1);
        break;
    default:
        stats_add(&engine->stats, STATS_failed, 1);
    }
    list_push_back(&engine->decided, &request->link);
}

static struct slice
token_of(const struct request *request)
{
    return (struct slice){request->token.text, request->token.len};
}

/* ---- asking ---- */

/* lease_key may be NULL; it moves into the lookup where that was sent. */
static bool
ask_backend(struct engine *engine, struct request *request, struct buf *lease_key)
{
    struct lookup *lookup;
    enum err err = lookup_create(&engine->lookups, buf_slice(&request->url.raw), token_of(request),
                                 request->deadline_ms, &lookup);
    if (err) {
        engine_decide(engine, request, REASON_internal, err_text(err));
        return false;
    }
    if (lease_key != NULL) {
        buf_fini(&lookup->lease_key);
        lookup->lease_key = *lease_key;
        buf_init(lease_key, KEY_MAX);
    }
    lookup->owner = request;
    if (lookup_send(lookup)) {
        if (lease_key != NULL) {
            *lease_key = lookup->lease_key;
            buf_init(&lookup->lease_key, 0);
        }
        lookup_destroy(lookup);
        engine_decide(engine, request, REASON_shutting_down, NULL);
        return false;
    }
    request->lookup = lookup;
    request->tries++;
    request->state = REQUEST_WAITS_FOR_LOOKUP;
    return true;
}

static void
take_lease(struct engine *engine, struct request *request, const struct lease *lease)
{
    wire_id_fini(&request->user_id);
    enum err err = wire_id_copy(&lease->user_id, &request->user_id);
    if (!err && lease->reason == REASON_NONE) {
        upstream_fini(&request->upstream);
        err = upstream_copy(&lease->upstream, &request->upstream);
    }
    if (err) {
        engine_decide(engine, request, REASON_internal, err_text(err));
        return;
    }
    stats_add(&engine->stats, STATS_leased, 1);
    request->routed = lease->reason == REASON_NONE;
    engine_decide(engine, request, lease->reason, lease->reason ? lease->message : NULL);
}

/* A lease serves, or will when the answer to somebody else's question is here, or ours is the
 * question that others wait for.  False: no key could be made, so ask alone. */
static bool
share(struct engine *engine, struct request *request)
{
    struct buf key;
    struct list *waiting = NULL;
    const struct lease *lease = NULL;
    buf_init(&key, KEY_MAX);
    enum err err = leases_append_key(&key, token_of(request), buf_slice(&request->url.canonical));
    if (!err && (lease = leases_get(engine->leases, buf_slice(&key))) != NULL) {
        take_lease(engine, request, lease);
    }
    else if (!err && !(err = leases_ask(engine->leases, buf_slice(&key), &waiting))) {
        if (waiting != NULL) {
            list_push_back(waiting, &request->link);
            request->state = REQUEST_WAITS_FOR_LEASE;
        }
        else if (!ask_backend(engine, request, &key)) {
            struct list nobody;
            list_init(&nobody);
            leases_answered(engine->leases, buf_slice(&key), &nobody);
        }
    }
    buf_fini_secret(&key);
    return !err;
}

void
engine_look_up(struct engine *engine, struct request *request)
{
    request->detail[0] = '\0';
    if (engine->reactor == NULL) {
        engine_decide(engine, request, REASON_shutting_down, NULL);
        return;
    }
    /* After a dial that failed only the backend itself can help. */
    bool may_share = request->tried_count == 0 && leases_are_granted(engine->leases);
    if (!may_share || !share(engine, request)) {
        ask_backend(engine, request, NULL);
    }
}

void
engine_drop_lease(struct engine *engine, struct request *request)
{
    struct buf key;
    if (!leases_are_granted(engine->leases)) {
        return;
    }
    buf_init(&key, KEY_MAX);
    if (!leases_append_key(&key, token_of(request), buf_slice(&request->url.canonical))) {
        leases_drop(engine->leases, buf_slice(&key));
    }
    buf_fini_secret(&key);
}

/* ---- the answer ---- */

/* Whom the backend took the token for: what it said, else the claim of a token it has accepted
 * (DESIGN.md §6). */
static void
learn_user(struct engine *engine, struct request *request, struct lookup *lookup)
{
    struct slice token = token_of(request);
    wire_id_fini(&request->user_id);
    request->user_id = lookup->user_id;
    lookup->user_id = (struct wire_id){.kind = WIRE_ID_NONE};
    if (token.len == 0) {
        return;
    }
    if (request->user_id.kind == WIRE_ID_NONE
        && token_claim(token, engine->user_id_claim, &request->user_id)) {
        return; /* an opaque token, or one without the claim: unknown is null */
    }
    if (token_cache_put(engine->users, token, &request->user_id)) {
        token_cache_drop(engine->users, token);
    }
}

static void
take_route(struct engine *engine, struct request *request, struct lookup *lookup)
{
    if (request_has_tried(request, &lookup->upstream)) {
        /* The same proxy again counts as a try. */
        if (request->tries <= engine->proxy_retries) {
            engine_look_up(engine, request);
        }
        else {
            engine_decide(engine, request, REASON_no_proxy,
                          "the backend offers no other upstream proxy");
        }
        return;
    }
    upstream_fini(&request->upstream);
    request->upstream = lookup->upstream;
    lookup->upstream = (struct upstream){.host = NULL};
    request->routed = true;
    engine_decide(engine, request, REASON_NONE, NULL);
}

/* Not past the end of the token's own life. */
static int64_t
lease_duration_ms(const struct lookup *lookup)
{
    struct slice key = buf_slice(&lookup->lease_key);
    const char *blank = memchr(key.data, ' ', key.len);
    double exp;
    if (lookup->lease_ms <= 0 || blank == NULL) {
        return 0;
    }
    struct slice token = {blank + 1, key.len - (size_t)(blank + 1 - key.data)};
    if (token.len == 0 || token_expiry(token, &exp)) {
        return lookup->lease_ms;
    }
    double left_ms = (exp - clock_wall_seconds()) * 1000.0;
    return left_ms < (double)lookup->lease_ms ? (int64_t)(left_ms > 0 ? left_ms : 0)
                                              : lookup->lease_ms;
}

/* What is not kept for want of memory is asked again. */
static void
keep_lease(struct engine *engine, const struct request *request, struct lookup *lookup)
{
    if (lookup->lease_key.len == 0 && lookup->lease_ms > 0 && request != NULL
        && leases_append_key(&lookup->lease_key, token_of(request),
                             buf_slice(&request->url.canonical))) {
        return;
    }
    if (lookup->lease_key.len == 0 || (!lookup->token_accepted && lookup->lease_ms <= 0)) {
        return;
    }
    bool has_failed = request != NULL && lookup->reason == REASON_NONE
                      && request_has_tried(request, &lookup->upstream);
    struct lease lease = {.reason = lookup->reason, .upstream = lookup->upstream};
    lease.user_id = request != NULL ? request->user_id : lookup->user_id;
    memcpy(lease.message, lookup->message, sizeof lease.message);
    if (leases_put(engine->leases, buf_slice(&lookup->lease_key), &lease,
                   has_failed ? 0 : lease_duration_ms(lookup))) {
        leases_drop(engine->leases, buf_slice(&lookup->lease_key));
    }
}

/* Those who waited take the lease, or ask for themselves. */
static void
serve_waiting(struct engine *engine, struct slice key)
{
    struct list waiting;
    list_init(&waiting);
    leases_answered(engine->leases, key, &waiting);
    for (struct link *link; (link = list_take_front(&waiting)) != NULL;) {
        struct request *request = LIST_ENTRY(link, struct request, link);
        const struct lease *lease = leases_get(engine->leases, key);
        if (lease != NULL) {
            take_lease(engine, request, lease);
        }
        else if (engine->reactor == NULL) {
            engine_decide(engine, request, REASON_shutting_down, NULL);
        }
        else {
            ask_backend(engine, request, NULL);
        }
    }
}

void
engine_lookup_answered(struct engine *engine, struct lookup *lookup)
{
    struct request *request = lookup->owner;
    if (request != NULL) {
        request->lookup = NULL;
        if (lookup->token_accepted) {
            learn_user(engine, request, lookup);
        }
        else if (lookup->reason == REASON_token_refused) {
            token_cache_drop(engine->users, token_of(request));
        }
    }
    keep_lease(engine, request, lookup);
    if (request != NULL && lookup->reason == REASON_NONE) {
        take_route(engine, request, lookup);
    }
    else if (request != NULL) {
        engine_decide(engine, request, lookup->reason, lookup->message);
    }
    if (lookup->lease_key.len > 0) {
        serve_waiting(engine, buf_slice(&lookup->lease_key));
    }
    lookup_destroy(lookup);
}
