#include "lookup.h"

#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "http_text.h"
#include "mem.h"

#define ANSWER_MAX (64 * 1024)
#define URL_ROOM (4 * 8192 + 2048)

void
lookup_service_init(struct lookup_service *service, struct reactor *reactor, struct mailbox *outbox,
                    const char *url)
{
    service->reactor = reactor;
    service->outbox = outbox;
    service->url = url;
    breaker_init(&service->breaker);
}

static void
run(struct reactor_task *task);

enum err
lookup_create(struct lookup_service *service, struct slice target_url, struct slice token,
              int64_t deadline_ms, struct lookup **out)
{
    struct lookup *lookup = mem_zalloc(sizeof *lookup);
    if (lookup == NULL) {
        return ERR_MEMORY;
    }
    link_init(&lookup->event.mail.link);
    link_init(&lookup->task.mail.link);
    lookup->event.kind = EVENT_LOOKUP;
    lookup->task.run = run;
    lookup->service = service;
    lookup->deadline_ms = deadline_ms;
    lookup->reason = REASON_internal;
    buf_init(&lookup->url, URL_ROOM);
    buf_init(&lookup->lease_key, URL_ROOM + TOKEN_MAX);
    buf_init(&lookup->authorization, TOKEN_MAX + sizeof "Bearer ");
    enum err err = buf_append_string(&lookup->url, service->url);
    if (!err) {
        err = buf_append_string(&lookup->url,
                                strchr(service->url, '?') ? "&target_url=" : "?target_url=");
    }
    if (!err) {
        err = http_text_append_query_value(&lookup->url, target_url);
    }
    if (!err && token.len > 0) {
        err = buf_append_string(&lookup->authorization, "Bearer ");
    }
    if (!err) {
        err = buf_append_slice(&lookup->authorization, token);
    }
    if (err) {
        lookup_destroy(lookup);
        return err;
    }
    *out = lookup;
    return ERR_OK;
}

enum err
lookup_send(struct lookup *lookup)
{
    return reactor_post(lookup->service->reactor, &lookup->task) ? ERR_OK : ERR_CLOSED;
}

void
lookup_destroy(struct lookup *lookup)
{
    if (lookup == NULL) {
        return;
    }
    http_call_fini(&lookup->call);
    buf_fini(&lookup->url);
    buf_fini_secret(&lookup->authorization);
    buf_fini_secret(&lookup->lease_key);
    upstream_fini(&lookup->upstream);
    wire_id_fini(&lookup->user_id);
    mem_free(lookup);
}

/* Gives the lookup back to the loop; after that the reactor must not look at it. */
static void
answer(struct lookup *lookup, enum reason reason, const char *message)
{
    lookup->reason = reason;
    if (message != NULL) {
        snprintf(lookup->message, sizeof lookup->message, "%s", message);
    }
    if (!mailbox_post(lookup->service->outbox, &lookup->event.mail)) {
        lookup_destroy(lookup);
    }
}

static void
answer_route(struct lookup *lookup)
{
    struct wire_proxy proxy;
    char message[WIRE_MESSAGE_SIZE] = "out of memory";
    enum err err = wire_parse_proxy(buf_slice(&lookup->call.answer), &proxy, message);
    if (err) {
        lookup->lease_ms = 0;
        answer(lookup, REASON_bad_answer, message);
        return;
    }
    enum reason reason = REASON_NONE;
    if (!proxy.is_working) {
        reason = REASON_proxy_not_working;
        snprintf(message, sizeof message, "the backend's upstream proxy is marked as not working");
    }
    else if (upstream_from_proxy(&proxy, &lookup->upstream, message)) {
        reason = REASON_bad_answer;
        lookup->lease_ms = 0;
    }
    if (lookup->call.fresh_ms < 0 && proxy.ttl_ms > 0 && reason != REASON_bad_answer) {
        lookup->lease_ms = proxy.ttl_ms;
    }
    lookup->user_id = proxy.user_id;
    proxy.user_id = (struct wire_id){.kind = WIRE_ID_NONE};
    wire_proxy_fini(&proxy);
    answer(lookup, reason, reason ? message : NULL);
}

static void
answer_status(struct lookup *lookup, int status)
{
    char message[LOOKUP_MESSAGE_SIZE];
    lookup->token_accepted = status == 200 || status == 403 || status == 404;
    if ((lookup->token_accepted || status == 401) && lookup->call.fresh_ms > 0) {
        lookup->lease_ms = lookup->call.fresh_ms;
    }
    switch (status) {
    case 200:
        answer_route(lookup);
        return;
    case 401:
        answer(lookup, REASON_token_refused, "the backend does not accept the user token");
        return;
    case 403:
        answer(lookup, REASON_target_refused, "the backend does not allow this target");
        return;
    case 404:
        answer(lookup, REASON_no_proxy, "the backend has no working upstream proxy");
        return;
    default:
        snprintf(message, sizeof message, "the backend answered %d to GET /proxy", status);
        answer(lookup, REASON_backend_error, message);
    }
}

static void
done(struct http_call *call)
{
    struct lookup *lookup = CONTAINER_OF(call, struct lookup, call);
    struct breaker *breaker = &lookup->service->breaker;
    int64_t now_ms = clock_now_ms();
    switch (call->failure) {
    case HTTP_FAILURE_NONE:
        if (call->status >= 500) {
            breaker_failed(breaker, now_ms);
        }
        else {
            breaker_succeeded(breaker);
        }
        answer_status(lookup, call->status);
        return;
    case HTTP_FAILURE_CANCELLED:
        answer(lookup, REASON_shutting_down, "the gateway is stopping");
        return;
    case HTTP_FAILURE_TIMEOUT:
        breaker_failed(breaker, now_ms);
        answer(lookup, REASON_backend_timeout, call->message);
        return;
    case HTTP_FAILURE_TOO_LARGE:
        answer(lookup, REASON_bad_answer, call->message);
        return;
    case HTTP_FAILURE_CONNECT:
    case HTTP_FAILURE_BROKEN:
        breaker_failed(breaker, now_ms);
        answer(lookup, REASON_backend_unreachable, call->message);
        return;
    }
}

static void
run(struct reactor_task *task)
{
    struct lookup *lookup = CONTAINER_OF(task, struct lookup, task);
    struct lookup_service *service = lookup->service;
    int64_t now_ms = clock_now_ms();
    if (reactor_is_stopping(service->reactor)) {
        answer(lookup, REASON_shutting_down, "the gateway is stopping");
        return;
    }
    if (lookup->deadline_ms <= now_ms) {
        answer(lookup, REASON_backend_timeout, "no time was left to ask the backend");
        return;
    }
    if (!breaker_allows(&service->breaker, now_ms)) {
        answer(lookup, REASON_backend_unreachable,
               "the backend has failed repeatedly; it is asked again once a second");
        return;
    }
    lookup->call.method = HTTP_GET;
    lookup->call.url = buf_string(&lookup->url);
    lookup->call.authorization =
        lookup->authorization.len > 0 ? buf_string(&lookup->authorization) : NULL;
    lookup->call.timeout_ms = (int)(lookup->deadline_ms - now_ms);
    lookup->call.max_body = ANSWER_MAX;
    lookup->call.done = done;
    enum err err = http_start(reactor_http(service->reactor), &lookup->call);
    if (err) {
        answer(lookup, REASON_internal, err_text(err));
    }
}
