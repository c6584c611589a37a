#include "refresh.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "mem.h"

#define RETRY_BASE_MS 1000
#define REJECTS_LOGGED 20

/* One list on its way to a rule set; made by the reactor, filled by the compile thread, taken back
 * by the reactor. */
struct compile {
    struct reactor_task task;
    struct refresh *refresh;
    struct buf body;
    struct rules *previous; /* borrowed: the refresh keeps its reference meanwhile */
    enum err err;
    char message[WIRE_MESSAGE_SIZE];
    struct rules *rules;
    struct rules_report report;
};

struct refresh {
    struct reactor *reactor;
    struct mailbox *outbox;
    struct stats *stats;
    struct refresh_config config;
    struct reactor_timer timer;
    struct reactor_task ask;
    atomic_bool asked; /* the task `ask` is on its way */
    struct http_call call;
    bool calling;
    struct compile *compiling;
    pthread_t compiler;
    bool compiler_runs;
    bool again; /* asked for while one was running */
    int64_t started_ms;
    unsigned failures;         /* in a row */
    char etag[HTTP_ETAG_SIZE]; /* of the set in place */
    struct rules *newest;
    /* Replaced by `newest`, kept for one round: by then the loop has let go of it too, so that the
     * last reference, and the long work of freeing, is never the loop's. */
    struct rules *retired;
};

/* NULL when memory is short. */
static struct rules_event *
rules_event_create(const struct refresh *refresh, bool confirmed)
{
    struct rules_event *event = mem_zalloc(sizeof *event);
    if (event != NULL) {
        link_init(&event->event.mail.link);
        event->event.kind = EVENT_RULES;
        event->confirmed = confirmed;
        event->confirmed_ms = refresh->started_ms;
    }
    return event;
}

static void
publish(struct refresh *refresh, struct rules_event *event)
{
    if (event != NULL && !mailbox_post(refresh->outbox, &event->event.mail)) {
        rules_event_destroy(event);
    }
}

void
rules_event_destroy(struct rules_event *event)
{
    rules_unref(event->rules);
    mem_free(event);
}

static void
schedule(struct refresh *refresh)
{
    int64_t interval_ms = refresh->config.interval_ms;
    int64_t wait_ms =
        interval_ms - interval_ms / 10 + (int64_t)clock_random((uint64_t)interval_ms / 5);
    if (refresh->failures > 0) {
        unsigned shift = refresh->failures < 10 ? refresh->failures - 1 : 9;
        int64_t cap_ms = (int64_t)RETRY_BASE_MS << shift;
        cap_ms = cap_ms < wait_ms ? cap_ms : wait_ms;
        wait_ms = cap_ms / 2 + (int64_t)clock_random((uint64_t)cap_ms / 2);
    }
    if (refresh->again) {
        refresh->again = false;
        wait_ms = 0;
    }
    reactor_arm(refresh->reactor, &refresh->timer, clock_now_ms() + wait_ms);
}

static void
failed(struct refresh *refresh, const char *why)
{
    refresh->failures++;
    stats_add(refresh->stats, STATS_refresh_failures, 1);
    event_notice(refresh->outbox, NOTICE_WARNING, "Blacklist refresh failed: %s; %s", why,
                 refresh->newest ? "the last good rule set stays in force"
                                 : "no rule set was ever loaded, so every request is answered 503");
    publish(refresh, rules_event_create(refresh, false));
    schedule(refresh);
}

static void
log_report(struct refresh *refresh, const struct rules_report *report)
{
    for (size_t i = 0; i < report->rejects_kept && i < REJECTS_LOGGED; i++) {
        const struct rules_reject *reject = &report->rejects[i];
        char id[32] = "?";
        if (reject->id.kind == WIRE_ID_INTEGER) {
            snprintf(id, sizeof id, "%lld", (long long)reject->id.integer);
        }
        else if (reject->id.kind == WIRE_ID_STRING) {
            snprintf(id, sizeof id, "%.30s", reject->id.string);
        }
        event_notice(refresh->outbox, NOTICE_WARNING,
                     "Blacklist rule id=%s is not in force: %s (at position %zu)", id,
                     reject->error.message, reject->error.position);
    }
    event_notice(refresh->outbox, NOTICE_INFO,
                 "Refreshed blacklist cache: %zu rules (%zu compiled, %zu rejected) in %lld ms",
                 report->given, report->compiled, report->rejected,
                 (long long)(clock_now_ms() - refresh->started_ms));
}

static void
compile_destroy(struct compile *compile)
{
    buf_fini(&compile->body);
    rules_report_fini(&compile->report);
    mem_free(compile);
}

/* The new set is in place as soon as the loop hears of it: so the news comes first, and with it
 * fails everything. */
static void
take_over(struct refresh *refresh, struct compile *compile)
{
    struct rules_event *event = rules_event_create(refresh, true);
    if (event == NULL) {
        rules_unref(compile->rules);
        failed(refresh, err_text(ERR_MEMORY));
        return;
    }
    refresh->failures = 0;
    memcpy(refresh->etag, refresh->call.etag, sizeof refresh->etag);
    stats_add(refresh->stats, STATS_refreshes, 1);
    stats_add(refresh->stats, STATS_rules_rejected, compile->report.rejected);
    rules_unref(refresh->retired);
    refresh->retired = refresh->newest;
    refresh->newest = compile->rules;
    log_report(refresh, &compile->report);
    event->rules = rules_ref(refresh->newest);
    publish(refresh, event);
    schedule(refresh);
}

/* On the reactor: the compile thread is done. */
static void
compiled(struct reactor_task *task)
{
    struct compile *compile = CONTAINER_OF(task, struct compile, task);
    struct refresh *refresh = compile->refresh;
    pthread_join(refresh->compiler, NULL);
    refresh->compiler_runs = false;
    refresh->compiling = NULL;
    if (compile->err) {
        failed(refresh, compile->err == ERR_INVALID ? compile->message : err_text(compile->err));
    }
    else {
        take_over(refresh, compile);
    }
    compile_destroy(compile);
}

static void *
compile_main(void *context)
{
    struct compile *compile = context;
    struct wire_rules list;
    compile->err = wire_parse_rules(buf_slice(&compile->body), &list, compile->message);
    if (!compile->err) {
        compile->err = rules_build(&list, compile->previous, &compile->rules, &compile->report);
        wire_rules_fini(&list);
    }
    /* Refused while stopping: refresh_join finds the job in `compiling` then. */
    bool posted = reactor_post(compile->refresh->reactor, &compile->task);
    (void)posted;
    return NULL;
}

static void
compile_start(struct refresh *refresh)
{
    struct compile *compile = mem_zalloc(sizeof *compile);
    if (compile == NULL) {
        failed(refresh, err_text(ERR_MEMORY));
        return;
    }
    link_init(&compile->task.mail.link);
    compile->task.run = compiled;
    compile->refresh = refresh;
    compile->previous = refresh->newest;
    compile->body = refresh->call.answer;
    buf_init(&refresh->call.answer, 0);
    if (pthread_create(&refresh->compiler, NULL, compile_main, compile) != 0) {
        compile_destroy(compile);
        failed(refresh, "no thread could be started");
        return;
    }
    refresh->compiling = compile;
    refresh->compiler_runs = true;
}

static void
answered(struct http_call *call)
{
    struct refresh *refresh = CONTAINER_OF(call, struct refresh, call);
    char why[64];
    refresh->calling = false;
    if (call->failure == HTTP_FAILURE_CANCELLED) {
        return;
    }
    if (call->failure != HTTP_FAILURE_NONE) {
        failed(refresh, call->message);
    }
    else if (call->status == 200) {
        compile_start(refresh);
    }
    else if (call->status == 304 && refresh->etag[0] != '\0') {
        refresh->failures = 0;
        publish(refresh, rules_event_create(refresh, true));
        schedule(refresh);
    }
    else if (call->status == 401 || call->status == 403) {
        snprintf(why, sizeof why, "the backend answered %d, check SYSTEM_TOKEN", call->status);
        failed(refresh, why);
    }
    else {
        snprintf(why, sizeof why, "the backend answered %d to GET /blacklist", call->status);
        failed(refresh, why);
    }
}

static void
fetch(struct refresh *refresh)
{
    if (reactor_is_stopping(refresh->reactor)) {
        return;
    }
    if (refresh->calling || refresh->compiling != NULL) {
        refresh->again = true;
        return;
    }
    reactor_disarm(&refresh->timer);
    refresh->started_ms = clock_now_ms();
    http_call_fini(&refresh->call);
    refresh->call = (struct http_call){
        .method = HTTP_GET,
        .url = refresh->config.url,
        .authorization = buf_string(refresh->config.authorization),
        .if_none_match = refresh->etag[0] != '\0' ? refresh->etag : NULL,
        .timeout_ms = refresh->config.timeout_ms,
        .max_body = refresh->config.max_body,
        .done = answered,
    };
    enum err err = http_start(reactor_http(refresh->reactor), &refresh->call);
    if (err) {
        failed(refresh, err_text(err));
        return;
    }
    refresh->calling = true;
}

static void
fetch_by_timer(struct reactor_timer *timer)
{
    fetch(CONTAINER_OF(timer, struct refresh, timer));
}

static void
fetch_by_task(struct reactor_task *task)
{
    struct refresh *refresh = CONTAINER_OF(task, struct refresh, ask);
    atomic_store(&refresh->asked, false);
    fetch(refresh);
}

enum err
refresh_create(struct reactor *reactor, struct mailbox *outbox, struct stats *stats,
               const struct refresh_config *config, struct refresh **out)
{
    struct refresh *refresh = mem_zalloc(sizeof *refresh);
    if (refresh == NULL) {
        return ERR_MEMORY;
    }
    refresh->reactor = reactor;
    refresh->outbox = outbox;
    refresh->stats = stats;
    refresh->config = *config;
    link_init(&refresh->ask.mail.link);
    refresh->ask.run = fetch_by_task;
    reactor_timer_init(&refresh->timer, fetch_by_timer);
    *out = refresh;
    return ERR_OK;
}

enum err
refresh_start(struct refresh *refresh)
{
    atomic_store(&refresh->asked, true);
    return reactor_post(refresh->reactor, &refresh->ask) ? ERR_OK : ERR_CLOSED;
}

void
refresh_ask(struct refresh *refresh)
{
    if (!atomic_exchange(&refresh->asked, true) && !reactor_post(refresh->reactor, &refresh->ask)) {
        atomic_store(&refresh->asked, false); /* stopping: nobody needs rules any more */
    }
}

void
refresh_join(struct refresh *refresh)
{
    if (refresh->compiler_runs) {
        pthread_join(refresh->compiler, NULL);
        refresh->compiler_runs = false;
        rules_unref(refresh->compiling->rules);
        compile_destroy(refresh->compiling);
        refresh->compiling = NULL;
    }
}

void
refresh_destroy(struct refresh *refresh)
{
    if (refresh == NULL) {
        return;
    }
    assert(!refresh->compiler_runs && !refresh->calling);
    http_call_fini(&refresh->call);
    rules_unref(refresh->retired);
    rules_unref(refresh->newest);
    mem_free(refresh);
}
