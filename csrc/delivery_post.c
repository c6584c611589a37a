/* The reactor's half of the delivery: posts records, and slows down when the backend asks for it.
 */
#include "activity.h"
#include "clock.h"
#include "delivery_state.h"
#include "mem.h"

/* Read so that the connection can be used again; of a longer one only the beginning counts. */
#define ANSWER_MAX (64 * 1024)
/* So many are given back at once: half a window is what the spool thread reads anew. */
#define SETTLED_MAX (DELIVERY_WINDOW / 2)

static void
send_ready(struct delivery *delivery);

void
delivery_post_destroy(struct post *post)
{
    http_call_fini(&post->call);
    mem_free(post->record.body);
    mem_free(post);
}

static void
settle(struct post *post, enum post_fate fate)
{
    post->fate = fate;
    list_push_back(&post->delivery->settled, &post->settle.mail.link);
    post->delivery->settled_count++;
}

void
delivery_post_give_back(struct delivery *delivery)
{
    delivery->settled_count = 0;
    if (list_is_empty(&delivery->settled)
        || mailbox_post_all(&delivery->inbox, &delivery->settled)) {
        return;
    }
    /* Stopping, and too late for these answers: the records stay in the database, and the backend
     * will know the keys when they are posted again. */
    for (struct link *link; (link = list_take_front(&delivery->settled)) != NULL;) {
        delivery_post_destroy(LIST_ENTRY(link, struct post, settle.mail.link));
    }
}

/* Many at a time, as each time costs the spool thread a wake-up and a synced transaction; but
 * nothing waits for an answer that may never come. */
static void
give_back_if_due(struct delivery *delivery)
{
    if (delivery->in_flight == 0 || delivery->settled_count >= SETTLED_MAX) {
        delivery_post_give_back(delivery);
    }
}

/* Never sooner than what an earlier answer has asked for. */
static void
hold_back(struct delivery *delivery, int64_t wait_ms)
{
    int64_t not_before_ms = clock_now_ms() + wait_ms;
    delivery->failures++;
    delivery->round++;
    if (not_before_ms > delivery->not_before_ms) {
        delivery->not_before_ms = not_before_ms;
    }
}

/* Eight posts that fail together are one failure. */
static bool
is_news(const struct post *post)
{
    return post->round == post->delivery->round;
}

static void
pause_all(struct delivery *delivery, int status)
{
    hold_back(delivery, ACTIVITY_PAUSE_MS);
    if (delivery->paused_status != status) {
        delivery->paused_status = status;
        event_notice(delivery->outbox, NOTICE_ERROR,
                     "Activity delivery is paused: the backend answered %d to POST /activity; %s. "
                     "Records are kept.",
                     status, activity_pause_hint(status));
    }
}

static void
retry(struct post *post)
{
    struct delivery *delivery = post->delivery;
    stats_add(delivery->stats, STATS_records_retried, 1);
    if (!is_news(post) && post->call.retry_after_ms < 0) {
        return;
    }
    int64_t wait_ms = activity_backoff_ms(delivery->failures, post->call.retry_after_ms);
    if (delivery->failures == 0) {
        event_notice(delivery->outbox, NOTICE_WARNING,
                     "Activity delivery failed, and is tried again: %s. Records are kept.",
                     post->call.failure ? post->call.message
                                        : "the backend answered with an error");
    }
    hold_back(delivery, wait_ms);
}

/* An answer to what was sent before the last failure does not end what that has asked for. */
static void
note_success(struct post *post)
{
    struct delivery *delivery = post->delivery;
    if (!is_news(post)) {
        return;
    }
    if (delivery->failures > 0) {
        event_notice(delivery->outbox, NOTICE_INFO, "Activity delivery goes on");
    }
    delivery->failures = 0;
    delivery->paused_status = 0;
    delivery->not_before_ms = 0;
}

static void
posted(struct http_call *call)
{
    struct post *post = CONTAINER_OF(call, struct post, call);
    struct delivery *delivery = post->delivery;
    delivery->in_flight--;
    if (call->failure == HTTP_FAILURE_CANCELLED) {
        delivery_post_destroy(post);
        give_back_if_due(delivery);
        return;
    }
    switch (activity_fate(call->failure ? 0 : call->status)) {
    case ACTIVITY_DELIVERED:
        note_success(post);
        settle(post, POST_DELIVERED);
        break;
    case ACTIVITY_BURY:
        note_success(post); /* the backend works; it is the record */
        settle(post, POST_BURIED);
        break;
    case ACTIVITY_PAUSE:
        pause_all(delivery, call->status);
        list_push_back(&delivery->ready, &post->ready);
        break;
    case ACTIVITY_RETRY:
        retry(post);
        /* To the end: a record that the backend cannot digest holds up no other. */
        list_push_back(&delivery->ready, &post->ready);
        break;
    }
    send_ready(delivery);
    give_back_if_due(delivery);
}

static enum err
send_one(struct post *post)
{
    struct delivery *delivery = post->delivery;
    http_call_fini(&post->call);
    post->round = delivery->round;
    post->call = (struct http_call){
        .method = HTTP_POST,
        .url = delivery->url,
        .authorization = buf_string(delivery->authorization),
        .idempotency_key = post->record.key,
        .body = {post->record.body, post->record.body_len},
        .timeout_ms = delivery->timeout_ms,
        .max_body = ANSWER_MAX,
        .cuts_body = true,
        .done = posted,
    };
    return http_start(reactor_http(delivery->reactor), &post->call);
}

/* Sends what may be sent now: while the backend is failing, one at a time, and not before its time.
 */
static void
send_ready(struct delivery *delivery)
{
    while (!list_is_empty(&delivery->ready) && !reactor_is_stopping(delivery->reactor)) {
        size_t limit = delivery->failures > 0 ? 1 : DELIVERY_IN_FLIGHT;
        if (delivery->in_flight >= limit) {
            return;
        }
        if (delivery->not_before_ms > clock_now_ms()) {
            reactor_arm(delivery->reactor, &delivery->timer, delivery->not_before_ms);
            return;
        }
        struct post *post = LIST_ENTRY(list_take_front(&delivery->ready), struct post, ready);
        if (send_one(post)) {
            hold_back(delivery, activity_backoff_ms(delivery->failures, -1));
            list_push_back(&delivery->ready, &post->ready);
            continue;
        }
        delivery->in_flight++;
    }
}

void
delivery_post_by_timer(struct reactor_timer *timer)
{
    send_ready(CONTAINER_OF(timer, struct delivery, timer));
}

void
delivery_post_by_task(struct reactor_task *task)
{
    struct post *post = CONTAINER_OF(task, struct post, send);
    list_push_back(&post->delivery->ready, &post->ready);
    send_ready(post->delivery);
}

void
delivery_resume(struct delivery *delivery)
{
    delivery->paused_status = 0;
    delivery->not_before_ms = 0;
    send_ready(delivery);
}
