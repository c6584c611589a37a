#include "refresh.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "keeper.h"
#include "mem.h"
#include "rules_log.h"

#define RETRY_BASE_MS 1000

/* One list on its way to a rule set; made by the reactor, filled by the compile thread, taken back
 * by the reactor. */
struct compile {
    struct reactor_task task;
    struct refresh *refresh;
    bool from_disk;
    struct buf body;           /* the backend's; or loaded by the thread */
    char etag[HTTP_ETAG_SIZE]; /* likewise */
    int64_t confirmed_ms;      /* when the backend last said that this is its list */
    struct rules *previous;    /* borrowed: the refresh keeps its reference meanwhile */
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
    bool again;  /* asked for while one was running */
    bool looked; /* for a list on disk, which comes before the first call */
    /* The set in `newest` came from disk and the loop has not been given it yet: it gets it when
     * the backend has confirmed it, or cannot be reached.  NULL otherwise. */
    struct compile *kept;
    struct keeper keeper;
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

int64_t
refresh_wait_ms(int64_t interval_ms, unsigned failures)
{
    int64_t wait_ms =
        interval_ms - interval_ms / 10 + (int64_t)clock_random((uint64_t)interval_ms / 5);
    if (failures == 0) {
        return wait_ms;
    }
    unsigned shift = failures < 10 ? failures - 1 : 9;
    int64_t cap_ms = (int64_t)RETRY_BASE_MS << shift;
    cap_ms = cap_ms < wait_ms ? cap_ms : wait_ms;
    return cap_ms / 2 + (int64_t)clock_random((uint64_t)cap_ms / 2);
}

static void
schedule(struct refresh *refresh)
{
    int64_t wait_ms = refresh_wait_ms(refresh->config.interval_ms, refresh->failures);
    if (refresh->again) {
        refresh->again = false;
        wait_ms = 0;
    }
    reactor_arm(refresh->reactor, &refresh->timer, clock_now_ms() + wait_ms);
}

static void
compile_destroy(struct compile *compile)
{
    if (compile != NULL) {
        buf_fini(&compile->body);
        rules_report_fini(&compile->report);
        mem_free(compile);
    }
}

/* The set from disk is in force from here on; false when the loop could not be told. */
static bool
enforce_kept(struct refresh *refresh, int64_t confirmed_ms)
{
    struct compile *kept = refresh->kept;
    struct rules_event *event = rules_event_create(refresh, true);
    if (event == NULL) {
        return false;
    }
    event->confirmed_ms = confirmed_ms;
    event->rules = rules_ref(refresh->newest);
    rules_log(refresh->outbox, refresh->newest, &kept->report,
              clock_now_ms() - refresh->started_ms);
    refresh->kept = NULL;
    compile_destroy(kept);
    publish(refresh, event);
    return true;
}

/* The backend does not answer, and there is a list of earlier. */
static void
fall_back(struct refresh *refresh)
{
    int64_t confirmed_ms = refresh->kept->confirmed_ms;
    if (!enforce_kept(refresh, confirmed_ms)) {
        publish(refresh, rules_event_create(refresh, false));
        return;
    }
    char age[64] = "at an unknown time";
    int64_t age_ms = clock_now_ms() - confirmed_ms;
    if (age_ms < LAST_GOOD_AGE_UNKNOWN) {
        snprintf(age, sizeof age, "%lld seconds ago", (long long)(age_ms / 1000));
    }
    event_notice(refresh->outbox, NOTICE_WARNING,
                 "The blacklist in force is the last good one, from %s/" LAST_GOOD_FILE
                 ": %zu rules, confirmed by the backend %s",
                 refresh->config.state_dir, rules_count(refresh->newest), age);
}

static void
failed(struct refresh *refresh, const char *why)
{
    refresh->failures++;
    stats_add(refresh->stats, STATS_refresh_failures, 1);
    event_notice(refresh->outbox, NOTICE_WARNING, "Blacklist refresh failed: %s; %s", why,
                 refresh->newest ? "the last good rule set stays in force"
                                 : "no rule set was ever loaded, so every request is answered 503");
    if (refresh->kept != NULL) {
        fall_back(refresh);
    }
    else {
        publish(refresh, rules_event_create(refresh, false));
    }
    schedule(refresh);
}

/* Loudly, whatever comes of it: it may be a slip of the backend's. */
static bool
is_shrunk_too_far(const struct refresh *refresh, const struct compile *compile,
                  char message[WIRE_MESSAGE_SIZE])
{
    size_t before = refresh->newest != NULL ? rules_count(refresh->newest) : 0;
    size_t after = rules_count(compile->rules);
    unsigned max_percent = (unsigned)refresh->config.max_shrink_percent;
    if (before > after && max_percent > 0 && before - after > before * max_percent / 100) {
        snprintf(message, WIRE_MESSAGE_SIZE,
                 "%zu rules are left of %zu, which BLACKLIST_MAX_SHRINK_PERCENT forbids", after,
                 before);
        return true;
    }
    if (after < before / 2 + before % 2) {
        event_notice(refresh->outbox, NOTICE_WARNING,
                     "The blacklist has lost more than half of its rules: %zu are left of %zu",
                     after, before);
    }
    return false;
}

static void
keep(struct refresh *refresh, struct compile *compile, bool same)
{
    bool same_etag = strcmp(refresh->etag, compile->etag) == 0;
    memcpy(refresh->etag, compile->etag, sizeof refresh->etag);
    if (same && same_etag && keeper_is_current(&refresh->keeper)) {
        keeper_confirm(&refresh->keeper);
    }
    else {
        keeper_save(&refresh->keeper, &compile->body, refresh->etag);
    }
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
    bool same = compile->rules == refresh->newest;
    refresh->failures = 0;
    stats_add(refresh->stats, STATS_refreshes, 1);
    stats_add(refresh->stats, STATS_rules_rejected, compile->report.rejected);
    rules_unref(refresh->retired);
    refresh->retired = refresh->newest;
    refresh->newest = compile->rules;
    compile_destroy(refresh->kept);
    refresh->kept = NULL;
    rules_log(refresh->outbox, refresh->newest, &compile->report,
              clock_now_ms() - refresh->started_ms);
    event->rules = rules_ref(refresh->newest);
    publish(refresh, event);
    keep(refresh, compile, same);
    schedule(refresh);
}

static void
fetch(struct refresh *refresh);

/* Whatever became of it, the backend is asked next. */
static void
loaded(struct refresh *refresh, struct compile *compile)
{
    if (compile->err && compile->err != ERR_MISSING) {
        event_notice(refresh->outbox, NOTICE_WARNING,
                     "The blacklist that was kept in %s/" LAST_GOOD_FILE " cannot be used: %s",
                     refresh->config.state_dir, compile->message);
    }
    if (compile->err) {
        compile_destroy(compile);
    }
    else {
        refresh->newest = compile->rules;
        refresh->kept = compile;
        memcpy(refresh->etag, compile->etag, sizeof refresh->etag);
        keeper_note_loaded(&refresh->keeper);
    }
    fetch(refresh);
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
    if (compile->from_disk) {
        loaded(refresh, compile);
        return;
    }
    if (compile->err) {
        failed(refresh, compile->message);
    }
    else if (is_shrunk_too_far(refresh, compile, compile->message)) {
        rules_unref(compile->rules);
        failed(refresh, compile->message);
    }
    else {
        take_over(refresh, compile);
    }
    compile_destroy(compile);
}

/* On the compile thread. */
static enum err
load(struct compile *compile)
{
    const struct refresh_config *config = &compile->refresh->config;
    struct last_good kept;
    enum err err =
        last_good_load(config->state_dir, config->url, config->max_body, &kept, compile->message);
    if (!err) {
        compile->body = kept.body;
        memcpy(compile->etag, kept.etag, sizeof compile->etag);
        compile->confirmed_ms = clock_now_ms() - kept.age_ms;
    }
    return err;
}

static enum err
compile_list(struct compile *compile)
{
    struct wire_rules list;
    enum err err = wire_parse_rules(buf_slice(&compile->body), &list, compile->message);
    if (err) {
        if (err != ERR_INVALID) {
            snprintf(compile->message, sizeof compile->message, "%s", err_text(err));
        }
        return err;
    }
    err = rules_build(&list, compile->previous, &compile->rules, &compile->report);
    wire_rules_fini(&list);
    snprintf(compile->message, sizeof compile->message, "%s", err_text(err));
    return err;
}

static void *
compile_main(void *context)
{
    struct compile *compile = context;
    compile->err = compile->from_disk ? load(compile) : ERR_OK;
    if (!compile->err) {
        compile->err = compile_list(compile);
    }
    if (compile->from_disk) {
        buf_fini(&compile->body); /* it is on disk already */
    }
    /* Refused while stopping: refresh_join finds the job in `compiling` then. */
    bool posted = reactor_post(compile->refresh->reactor, &compile->task);
    (void)posted;
    return NULL;
}

/* NULL when it could be started, else why not. */
static const char *
compile_start(struct refresh *refresh, bool from_disk)
{
    struct compile *compile = mem_zalloc(sizeof *compile);
    if (compile == NULL) {
        return err_text(ERR_MEMORY);
    }
    link_init(&compile->task.mail.link);
    compile->task.run = compiled;
    compile->refresh = refresh;
    compile->from_disk = from_disk;
    compile->previous = refresh->newest;
    buf_init(&compile->body, 0);
    if (!from_disk) {
        compile->body = refresh->call.answer;
        buf_init(&refresh->call.answer, 0);
        memcpy(compile->etag, refresh->call.etag, sizeof compile->etag);
    }
    if (pthread_create(&refresh->compiler, NULL, compile_main, compile) != 0) {
        compile_destroy(compile);
        return "no thread could be started";
    }
    refresh->compiling = compile;
    refresh->compiler_runs = true;
    return NULL;
}

/* The list in place is the backend's. */
static void
confirmed(struct refresh *refresh)
{
    refresh->failures = 0;
    if (refresh->kept == NULL) {
        publish(refresh, rules_event_create(refresh, true));
    }
    else if (!enforce_kept(refresh, refresh->started_ms)) {
        failed(refresh, err_text(ERR_MEMORY));
        return;
    }
    keeper_confirm(&refresh->keeper);
    schedule(refresh);
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
        const char *problem = compile_start(refresh, false);
        if (problem != NULL) {
            failed(refresh, problem);
        }
    }
    else if (call->status == 304 && call->if_none_match != NULL) {
        confirmed(refresh);
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
    if (!refresh->looked) {
        refresh->looked = true;
        if (refresh->config.state_dir != NULL && compile_start(refresh, true) == NULL) {
            return;
        }
    }
    bool conditional = refresh->etag[0] != '\0' && keeper_is_current(&refresh->keeper);
    reactor_disarm(&refresh->timer);
    refresh->started_ms = clock_now_ms();
    http_call_fini(&refresh->call);
    refresh->call = (struct http_call){
        .method = HTTP_GET,
        .url = refresh->config.url,
        .authorization = buf_string(refresh->config.authorization),
        .if_none_match = conditional ? refresh->etag : NULL,
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
    keeper_init(&refresh->keeper, config->state_dir, config->url, outbox);
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
    keeper_join(&refresh->keeper);
}

void
refresh_destroy(struct refresh *refresh)
{
    if (refresh == NULL) {
        return;
    }
    assert(!refresh->compiler_runs && !refresh->calling);
    http_call_fini(&refresh->call);
    compile_destroy(refresh->kept);
    rules_unref(refresh->retired);
    rules_unref(refresh->newest);
    mem_free(refresh);
}
