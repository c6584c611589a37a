#include "engine.h"

#include <stdio.h>
#include <string.h>

#include "engine_state.h"
#include "mem.h"
#include "request.h"
#include "rules_log.h"
#include "verdict.h"

#define RECORD_MAX (160 * 1024)
/* There was no status: nginx's word for it. */
#define CLIENT_GONE 499

/* ---- deciding ----
 *
 * While a long URL is matched others hold the GIL, and may release any request but this one, which
 * its caller, or whoever awaits it, holds: no list is walked across a match, only taken from. */

/* Before going back to the caller that began the request: one that is decided by now need not be
 * queued for it. */
static void
settled_at_once(struct request *request)
{
    if (request->state == REQUEST_DECIDED) {
        link_remove(&request->link);
    }
}

/* True when the URL must not be fetched; the request's detail says by which rule. */
static bool
is_hit(struct engine *engine, struct request *request, const struct rules_hit *hit)
{
    if (hit->outcome == RULES_NO_MATCH) {
        return false;
    }
    char id[RULES_LOG_ID_SIZE];
    rules_log_id(hit->id, id);
    if (hit->outcome == RULES_LIMIT) {
        stats_add(&engine->stats, STATS_rule_limits, 1);
    }
    snprintf(request->detail, sizeof request->detail,
             hit->outcome == RULES_LIMIT ? "rule %s could not be decided within its limits"
                                         : "rule %s",
             id);
    return true;
}

static bool
url_is_blocked(struct engine *engine, struct request *request, const struct url *url)
{
    struct rules *rules = rules_ref(engine->rules);
    struct verdict verdict = verdict_of(&engine->desk, rules, url);
    bool blocked = is_hit(engine, request, &verdict.hit);
    rules_unref(rules);
    return blocked;
}

/* A URL of which there is only one form; empty: none. */
static bool
blocks(struct engine *engine, struct request *request, struct slice subject)
{
    if (subject.len == 0) {
        return false;
    }
    struct rules *rules = rules_ref(engine->rules);
    struct rules_hit hit = verdict_of_form(&engine->desk, rules, subject);
    bool blocked = is_hit(engine, request, &hit);
    rules_unref(rules);
    return blocked;
}

static bool
is_denied(struct engine *engine, struct request *request, const struct url *url)
{
    int port;
    struct slice host = url_host(url, &port);
    const char *why = targets_refuse(&engine->targets, host, port);
    if (why == NULL) {
        return false;
    }
    snprintf(request->detail, sizeof request->detail, "%s", why);
    return true;
}

/* Of the rule set in place: REASON_NONE when there is one that may be used. */
static enum reason
rules_state(const struct engine *engine)
{
    if (engine->rules == NULL) {
        return REASON_no_rules;
    }
    bool stale = engine->max_stale_ms > 0
                 && clock_now_ms() - engine->rules_confirmed_ms > engine->max_stale_ms;
    return stale ? REASON_stale_rules : REASON_NONE;
}

/* The target, and the hosts that Host header, authority and SNI name: all must be allowed, and then
 * they must agree. */
static enum reason
judge(struct engine *engine, struct request *request)
{
    bool agree = true;
    if (url_is_blocked(engine, request, &request->url)) {
        return REASON_blacklisted;
    }
    for (size_t i = 0; i < REQUEST_OTHER_HOSTS; i++) {
        if (blocks(engine, request, buf_slice(&request->other_urls[i]))) {
            return REASON_blacklisted;
        }
        agree = agree && request->other_urls[i].len == 0;
    }
    if (is_denied(engine, request, &request->url)) {
        return REASON_target_denied;
    }
    if (agree) {
        return REASON_NONE;
    }
    snprintf(request->detail, sizeof request->detail,
             "the request target, its Host header and the TLS server name must name the same host");
    bool tunnelled = strncmp(buf_string(&request->url.raw), "https:", 6) == 0;
    return tunnelled ? REASON_misdirected : REASON_bad_request;
}

/* ---- the steps ---- */

static void
ask_permit(struct engine *engine, struct request *request)
{
    int64_t expires_ms = clock_now_ms() + engine->queue_timeout_ms;
    expires_ms = expires_ms < request->deadline_ms ? expires_ms : request->deadline_ms;
    switch (permits_ask(&engine->permits, &request->permit, expires_ms)) {
    case PERMIT_HELD:
        engine_look_up(engine, request);
        break;
    case PERMIT_WAITING:
        request->state = REQUEST_WAITS_FOR_PERMIT;
        break;
    case PERMIT_NONE:
        engine_decide(engine, request, REASON_overloaded, "too many requests run and wait already");
        break;
    }
}

static void
judge_and_go_on(struct engine *engine, struct request *request)
{
    enum reason reason = rules_state(engine);
    if (!reason) {
        reason = judge(engine, request);
    }
    if (reason) {
        engine_decide(engine, request, reason, NULL);
        return;
    }
    ask_permit(engine, request);
}

enum err
engine_begin(struct engine *engine, const struct request_input *input, void *owner,
             struct request **out)
{
    struct request_policy policy = {
        .default_token = &engine->default_token,
        .require_token = engine->require_token,
        .forward_authorization = engine->forward_authorization,
        .timeout_ms = engine->timeout_ms,
    };
    struct request *request;
    enum err err = request_create(input, &policy, owner, &request);
    if (err) {
        return err;
    }
    *out = request; /* already now: its owner may be seen while the URL is matched */
    stats_add(&engine->stats, STATS_requests, 1);
    list_push_back(&engine->live, &request->live);
    engine->live_count++;
    if (engine->refusing || engine_is_forked(engine)) {
        engine_decide(engine, request, REASON_shutting_down, NULL);
    }
    else if (request->reason) {
        engine_decide(engine, request, request->reason, NULL);
    }
    else if (!delivery_is_healthy(engine->delivery)) {
        engine_decide(engine, request, REASON_spool_full, NULL);
    }
    else if (engine->rules == NULL && !engine->rules_attempted) {
        request->state = REQUEST_WAITS_FOR_RULES;
        list_push_back(&engine->waiting_for_rules, &request->link);
    }
    else {
        judge_and_go_on(engine, request);
    }
    settled_at_once(request);
    return ERR_OK;
}

enum err
engine_retry(struct engine *engine, struct request *request)
{
    assert(request->state == REQUEST_DECIDED && request->routed && !request->finished);
    engine_drop_lease(engine, request);
    enum err err = request_set_aside(request);
    if (err) {
        return err;
    }
    if (engine->refusing || engine_is_forked(engine)) {
        engine_decide(engine, request, REASON_shutting_down, NULL);
    }
    else if (request->tries > engine->proxy_retries || request->deadline_ms <= clock_now_ms()) {
        engine_decide(engine, request, REASON_no_proxy, "no try is left");
    }
    else {
        engine_look_up(engine, request);
    }
    settled_at_once(request);
    return ERR_OK;
}

enum err
engine_judge(struct engine *engine, struct request *request, const struct url_parts *target,
             bool *allowed)
{
    struct url url;
    enum err err = url_build(target, &url);
    if (err == ERR_MEMORY) {
        return err;
    }
    request->detail[0] = '\0';
    if (err) {
        request->reason = REASON_bad_request;
    }
    else if (strcmp(buf_string(&url.raw), buf_string(&request->url.raw)) == 0) {
        request->reason = REASON_NONE;
    }
    else {
        request->reason = rules_state(engine);
        if (!request->reason && url_is_blocked(engine, request, &url)) {
            request->reason = REASON_blacklisted;
            stats_add(&engine->stats, STATS_blocked, 1);
        }
        else if (!request->reason && is_denied(engine, request, &url)) {
            request->reason = REASON_target_denied;
            stats_add(&engine->stats, STATS_blocked, 1);
        }
    }
    if (!err) {
        url_fini(&url);
    }
    *allowed = request->reason == REASON_NONE;
    return ERR_OK;
}

/* ---- the record and the end ---- */

/* Of the proxy in use or, when the last dial failed, of that one; NULL when none was ever chosen.
 */
static const struct wire_id *
last_proxy_id(const struct request *request)
{
    if (request->upstream.host != NULL) {
        return &request->upstream.id;
    }
    return request->tried_count > 0 ? &request->tried[request->tried_count - 1].id : NULL;
}

enum err
engine_record(struct engine *engine, struct request *request, int status)
{
    if (request->recorded) {
        return ERR_OK;
    }
    if (engine_is_forked(engine) || engine->delivery == NULL) {
        return ERR_CLOSED;
    }
    const struct wire_id *user_id = &request->user_id;
    if (user_id->kind == WIRE_ID_NONE && request->token.len > 0) {
        user_id =
            token_cache_get(engine->users, (struct slice){request->token.text, request->token.len});
    }
    struct wire_activity activity = {
        .user_id = user_id,
        .proxy_id = last_proxy_id(request),
        .url = buf_string(&request->url.raw),
        .method = request->method,
        .status_code = status,
        .timestamp = request->started_wall,
    };
    struct buf body;
    buf_init(&body, RECORD_MAX);
    enum err err = wire_build_activity(&activity, &body);
    if (!err) {
        err = delivery_append(engine->delivery, request->id, buf_slice(&body));
    }
    buf_fini(&body);
    request->recorded = err == ERR_OK;
    return err;
}

void
engine_record_unfinished(struct engine *engine)
{
    LIST_FOR_EACH(link, &engine->live)
    {
        /* Nothing is left to be done for one that the spool refuses. */
        enum err err = engine_record(engine, LIST_ENTRY(link, struct request, live), CLIENT_GONE);
        (void)err;
    }
}

/* The answer that is still to come is nobody's then. */
static void
lose_interest(struct request *request)
{
    if (request->lookup != NULL) {
        request->lookup->owner = NULL;
        request->lookup = NULL;
    }
}

void
engine_leave(struct engine *engine, struct request *request)
{
    if (request->state == REQUEST_WAITS_FOR_PERMIT) {
        struct permit *granted = permits_give_back(&engine->permits, &request->permit);
        assert(granted == NULL); /* it held none */
        (void)granted;
    }
    else if (request->state != REQUEST_WAITS_FOR_RULES) {
        return;
    }
    link_remove(&request->link);
    engine_decide(engine, request, REASON_client_gone, NULL);
}

void
engine_finish(struct engine *engine, struct request *request)
{
    if (request->finished) {
        return;
    }
    request->finished = true;
    link_remove(&request->live);
    engine->live_count--;
    lose_interest(request);
    struct permit *granted = permits_give_back(&engine->permits, &request->permit);
    link_remove(&request->link);
    if (request->state != REQUEST_DECIDED) {
        request->state = REQUEST_DECIDED;
        request->reason = REASON_internal;
    }
    if (granted != NULL) {
        engine_look_up(engine, CONTAINER_OF(granted, struct request, permit));
    }
}

void
engine_release(struct engine *engine, struct request *request)
{
    assert(request->state == REQUEST_DECIDED);
    if (request->permit.state != PERMIT_NONE) {
        stats_add(&engine->stats, STATS_permits_leaked, 1);
    }
    engine_finish(engine, request);
    link_remove(&request->link);
    request_destroy(request);
}

/* ---- events ---- */

static void
rules_arrived(struct engine *engine, struct rules_event *event)
{
    engine->rules_attempted = true;
    if (event->confirmed) {
        engine->rules_confirmed_ms = event->confirmed_ms;
    }
    if (event->rules != NULL) {
        rules_unref(engine->rules);
        engine->rules = event->rules;
        event->rules = NULL;
    }
    rules_event_destroy(event);
    for (struct link *link; (link = list_take_front(&engine->waiting_for_rules)) != NULL;) {
        judge_and_go_on(engine, LIST_ENTRY(link, struct request, link));
    }
}

void
engine_drain(struct engine *engine)
{
    if (engine_is_forked(engine)) {
        return;
    }
    struct list events;
    list_init(&events);
    mailbox_take_all(&engine->outbox, &events);
    for (struct link *link; (link = list_take_front(&events)) != NULL;) {
        struct event *event = CONTAINER_OF(LIST_ENTRY(link, struct mail, link), struct event, mail);
        switch (event->kind) {
        case EVENT_LOOKUP:
            engine_lookup_answered(engine, CONTAINER_OF(event, struct lookup, event));
            break;
        case EVENT_RULES:
            rules_arrived(engine, CONTAINER_OF(event, struct rules_event, event));
            break;
        case EVENT_NOTICE:
            list_push_back(&engine->notices, link);
            break;
        }
    }
}

struct request *
engine_take_decided(struct engine *engine)
{
    struct link *link = list_take_front(&engine->decided);
    return link != NULL ? LIST_ENTRY(link, struct request, link) : NULL;
}

struct notice *
engine_take_notice(struct engine *engine)
{
    struct link *link = list_take_front(&engine->notices);
    if (link == NULL) {
        return NULL;
    }
    struct event *event = CONTAINER_OF(LIST_ENTRY(link, struct mail, link), struct event, mail);
    return CONTAINER_OF(event, struct notice, event);
}

void
engine_notice_destroy(struct notice *notice)
{
    mem_free(notice);
}

int64_t
engine_next_expiry_ms(const struct engine *engine)
{
    int64_t next_ms = permits_next_expiry_ms(&engine->permits);
    if (!list_is_empty(&engine->waiting_for_rules)) {
        /* All wait equally long, so the first is the first to give up. */
        struct request *first =
            LIST_ENTRY(engine->waiting_for_rules.head.next, struct request, link);
        next_ms = first->deadline_ms < next_ms ? first->deadline_ms : next_ms;
    }
    return next_ms;
}

void
engine_expire_at(struct engine *engine, int64_t now_ms, enum reason permits_reason,
                 enum reason rules_reason)
{
    for (struct permit *permit;
         (permit = permits_take_expired(&engine->permits, now_ms)) != NULL;) {
        engine_decide(engine, CONTAINER_OF(permit, struct request, permit), permits_reason, NULL);
    }
    LIST_FOR_EACH_SAFE(link, after, &engine->waiting_for_rules)
    {
        struct request *request = LIST_ENTRY(link, struct request, link);
        if (request->deadline_ms > now_ms) {
            return;
        }
        link_remove(link);
        engine_decide(engine, request, rules_reason, NULL);
    }
}

void
engine_give_up(struct engine *engine)
{
    engine->refusing = true;
    engine_expire_at(engine, CLOCK_NEVER, REASON_shutting_down, REASON_shutting_down);
    LIST_FOR_EACH(link, &engine->live)
    {
        struct request *request = LIST_ENTRY(link, struct request, live);
        if (request->state != REQUEST_DECIDED) {
            /* It waits for the backend, or for a lease. */
            link_remove(&request->link);
            lose_interest(request);
            engine_decide(engine, request, REASON_shutting_down, NULL);
        }
    }
}

void
engine_expire(struct engine *engine)
{
    engine_expire_at(engine, clock_now_ms(), REASON_overloaded, REASON_no_rules);
}
