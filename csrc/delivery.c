#include "delivery.h"

#include <signal.h>
#include <stdio.h>

#include "clock.h"
#include "delivery_state.h"
#include "mem.h"

/* After the database failed. */
#define STORE_RETRY_MS 1000
/* How soon what an administrator's command or a dead process left is noticed. */
#define LOOK_MS 2000
/* Between two lines about records that are dropped. */
#define DROP_NOTICE_MS 60000

/* ---- the spool thread ---- */

static void
settle_by_task(struct store_task *task);

/* A database that does not work delays delivery but loses nothing: the journal keeps what it has.
 * What the spool has to say besides (a damaged file that was put aside) is for the log as well. */
static bool
store_worked(struct delivery *delivery, enum err err)
{
    const char *message = spool_message(delivery->spool);
    if (err ? !delivery->store_failed : message[0] != '\0') {
        event_notice(delivery->outbox, err ? NOTICE_ERROR : NOTICE_WARNING, "Activity spool %s: %s",
                     spool_place(delivery->spool), message);
    }
    delivery->store_failed = delivery->store_failed || err != ERR_OK;
    return !err;
}

static enum err
post_create(struct delivery *delivery, struct spool_record *record, struct post **out)
{
    struct post *post = mem_zalloc(sizeof *post);
    if (post == NULL) {
        return ERR_MEMORY;
    }
    link_init(&post->send.mail.link);
    link_init(&post->settle.mail.link);
    link_init(&post->ready);
    post->send.run = delivery_post_by_task;
    post->settle.run = settle_by_task;
    post->delivery = delivery;
    post->record = *record;
    *out = post;
    return ERR_OK;
}

/* Hands one record to the reactor; false when that cannot be now. */
static bool
hand_over(struct delivery *delivery, struct spool_record *record)
{
    struct post *post;
    if (post_create(delivery, record, &post)) {
        mem_free(record->body);
        return false;
    }
    if (!reactor_post(delivery->reactor, &post->send)) {
        delivery_post_destroy(post);
        return false;
    }
    delivery->window++;
    return true;
}

/* Fills the window from the database. */
static void
feed(struct delivery *delivery)
{
    struct spool_record records[DELIVERY_WINDOW];
    size_t room = DELIVERY_WINDOW - delivery->window - delivery->accepted_count;
    /* Half a window at a time: one query for many records instead of one for each that was settled.
     */
    if (room < DELIVERY_WINDOW / 2 || atomic_load(&delivery->stopping)) {
        return;
    }
    size_t count = 0;
    if (!store_worked(delivery,
                      spool_read(delivery->spool, delivery->cursor, records, room, &count))) {
        return;
    }
    bool open = true;
    for (size_t i = 0; i < count; i++) {
        int64_t row = records[i].row;
        if (!open) {
            mem_free(records[i].body);
        }
        else if ((open = hand_over(delivery, &records[i]))) {
            delivery->cursor = row;
        }
    }
}

/* With ACTIVITY_ON_FULL=drop. */
static void
trim(struct delivery *delivery)
{
    size_t dropped = 0;
    store_worked(delivery, spool_trim(delivery->spool, delivery->cursor, &dropped));
    stats_add(delivery->stats, STATS_records_dropped, dropped);
    if (dropped > 0 && clock_now_ms() >= delivery->drop_notice_ms) {
        delivery->drop_notice_ms = clock_now_ms() + DROP_NOTICE_MS;
        event_notice(delivery->outbox, NOTICE_ERROR,
                     "Activity spool %s is full: the oldest records are dropped, %llu so far",
                     spool_place(delivery->spool),
                     (unsigned long long)stats_get(delivery->stats, STATS_records_dropped));
    }
}

static void
move(struct delivery *delivery)
{
    size_t moved = 0;
    delivery->last_move_ms = clock_now_ms();
    delivery->move_due_ms = CLOCK_NEVER;
    /* Cleared before the move: a record that is appended meanwhile asks anew. */
    atomic_store(&delivery->move_asked, false);
    bool worked = store_worked(delivery, spool_move(delivery->spool, &moved));
    /* Reading works also where writing does not: only a move ends the failure. */
    delivery->store_failed = delivery->store_failed && !worked;
    trim(delivery);
    /* A spool that takes nothing is looked at again and again: no append would ask for it. */
    if (!worked || !spool_is_healthy(delivery->spool)) {
        delivery->move_due_ms = delivery->last_move_ms + STORE_RETRY_MS;
    }
    else if (spool_has_more(delivery->spool)) {
        delivery->move_due_ms = delivery->last_move_ms;
    }
}

/* What was accepted stays in the window until it is gone from the database, or a disk that takes no
 * writes would have it posted again and again. */
static void
delete_accepted(struct delivery *delivery)
{
    if (delivery->accepted_count > 0
        && store_worked(delivery, spool_delete(delivery->spool, delivery->accepted,
                                               delivery->accepted_count))) {
        delivery->accepted_count = 0;
    }
}

static void
look(struct delivery *delivery)
{
    bool more = false;
    spool_look(delivery->spool);
    enum err err = spool_adopt(delivery->spool, &more);
    const char *message = spool_message(delivery->spool);
    if (message[0] != '\0') {
        event_notice(delivery->outbox, err ? NOTICE_ERROR : NOTICE_WARNING, "Activity spool: %s",
                     message);
    }
    delivery->look_due_ms = clock_now_ms() + (more ? 0 : LOOK_MS);
}

static void
move_by_task(struct store_task *task)
{
    struct delivery *delivery = CONTAINER_OF(task, struct delivery, move);
    if (delivery->move_due_ms == CLOCK_NEVER) {
        delivery->move_due_ms = delivery->last_move_ms + SPOOL_MOVE_MS;
    }
}

static void
flush_by_task(struct store_task *task)
{
    struct delivery *delivery = CONTAINER_OF(task, struct delivery, flush);
    delivery->flushing = true;
    delivery->move_due_ms = 0;
}

static void
bury(struct delivery *delivery, struct post *post)
{
    event_notice(delivery->outbox, NOTICE_ERROR,
                 "The backend refuses activity record %s for good (%d); it is kept apart, see "
                 "`mitm-forwarder spool`",
                 post->record.key, post->call.status);
    stats_add(delivery->stats, STATS_records_buried, 1);
    store_worked(delivery, spool_bury(delivery->spool, post->record.row, post->call.status,
                                      buf_string(&post->call.answer)));
}

static void
settle_by_task(struct store_task *task)
{
    struct post *post = CONTAINER_OF(task, struct post, settle);
    struct delivery *delivery = post->delivery;
    delivery->window--;
    if (post->fate == POST_BURIED) {
        bury(delivery, post);
    }
    else {
        assert(delivery->accepted_count < DELIVERY_WINDOW);
        stats_add(delivery->stats, STATS_records_delivered, 1);
        delivery->accepted[delivery->accepted_count++] = post->record.row;
    }
    delivery_post_destroy(post);
}

static void
run_store_tasks(struct delivery *delivery)
{
    struct list tasks;
    list_init(&tasks);
    mailbox_take_all(&delivery->inbox, &tasks);
    for (struct link *link; (link = list_take_front(&tasks)) != NULL;) {
        struct store_task *task =
            CONTAINER_OF(LIST_ENTRY(link, struct mail, link), struct store_task, mail);
        task->run(task);
    }
    /* Those of a burst together: one transaction instead of one each. */
    delete_accepted(delivery);
}

static void
tell_when_flushed(struct delivery *delivery)
{
    if (delivery->flushing && delivery->window == 0 && spool_depth(delivery->spool) == 0) {
        delivery->flushing = false;
        if (!mailbox_post(&delivery->flushed, &delivery->flushed_mail)) {
            return; /* nobody waits any more */
        }
    }
}

static int
wait_ms(const struct delivery *delivery)
{
    int64_t due_ms = delivery->move_due_ms < delivery->look_due_ms ? delivery->move_due_ms
                                                                   : delivery->look_due_ms;
    int64_t left_ms = due_ms - clock_now_ms();
    return left_ms > 0 ? (int)left_ms : 0;
}

/* Of a spool in memory nothing is left after this. */
static void
tell_of_loss(struct delivery *delivery)
{
    int64_t depth = spool_depth(delivery->spool);
    if (depth > 0 && spool_is_in_memory(delivery->spool)) {
        stats_add(delivery->stats, STATS_records_dropped, (uint64_t)depth);
        event_notice(delivery->outbox, NOTICE_ERROR,
                     "%lld activity records were not delivered and are lost: ACTIVITY_SPOOL_DIR is "
                     "empty",
                     (long long)depth);
    }
}

static void *
delivery_main(void *context)
{
    struct delivery *delivery = context;
    while (!atomic_load(&delivery->stopping)) {
        mailbox_wait(&delivery->inbox, wait_ms(delivery));
        run_store_tasks(delivery);
        if (delivery->move_due_ms <= clock_now_ms()) {
            move(delivery);
        }
        if (delivery->look_due_ms <= clock_now_ms()) {
            look(delivery);
        }
        feed(delivery);
        tell_when_flushed(delivery);
    }
    mailbox_close(&delivery->inbox);
    run_store_tasks(delivery);
    move(delivery);
    tell_of_loss(delivery);
    return NULL;
}

/* ---- the loop ---- */

enum err
delivery_create(struct reactor *reactor, struct mailbox *outbox, struct stats *stats,
                const struct delivery_config *config, struct delivery **out,
                char message[SPOOL_MESSAGE_SIZE])
{
    struct delivery *delivery = mem_zalloc(sizeof *delivery);
    snprintf(message, SPOOL_MESSAGE_SIZE, "%s", err_text(ERR_MEMORY));
    if (delivery == NULL) {
        return ERR_MEMORY;
    }
    delivery->reactor = reactor;
    delivery->outbox = outbox;
    delivery->stats = stats;
    delivery->authorization = config->authorization;
    delivery->timeout_ms = config->timeout_ms;
    list_init(&delivery->ready);
    list_init(&delivery->settled);
    reactor_timer_init(&delivery->timer, delivery_post_by_timer);
    delivery->move_due_ms = CLOCK_NEVER;
    link_init(&delivery->move.mail.link);
    delivery->move.run = move_by_task;
    link_init(&delivery->flush.mail.link);
    delivery->flush.run = flush_by_task;
    link_init(&delivery->flushed_mail.link);

    enum err err = ERR_MEMORY;
    delivery->url = mem_string(config->url);
    if (delivery->url == NULL) {
        goto free_delivery;
    }
    if ((err = mailbox_init_fd(&delivery->inbox))) {
        goto free_url;
    }
    if ((err = mailbox_init_fd(&delivery->flushed))) {
        goto fini_inbox;
    }
    if ((err = spool_create(&config->spool, &delivery->spool, message))) {
        goto fini_flushed;
    }
    store_worked(delivery, ERR_OK); /* what recovery had to say */
    *out = delivery;
    return ERR_OK;

fini_flushed:
    mailbox_fini(&delivery->flushed);
fini_inbox:
    mailbox_fini(&delivery->inbox);
free_url:
    mem_free(delivery->url);
free_delivery:
    mem_free(delivery);
    return err;
}

enum err
delivery_start(struct delivery *delivery)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&delivery->thread, NULL, delivery_main, delivery);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        return ERR_IO;
    }
    delivery->started = true;
    /* What an earlier process left behind is sent without waiting for a new record. */
    atomic_store(&delivery->move_asked, true);
    return mailbox_post(&delivery->inbox, &delivery->move.mail) ? ERR_OK : ERR_CLOSED;
}

enum err
delivery_append(struct delivery *delivery, const char key[SPOOL_KEY_LEN], struct slice body)
{
    enum err err = spool_append(delivery->spool, key, body);
    stats_add(delivery->stats, err ? STATS_records_refused : STATS_records, 1);
    /* After a failure too: the move begins a new journal, which may be writable again.  A refusal
     * means that everything is stopping: the spool thread's last move, or the next start, finds the
     * record. */
    if (!atomic_exchange(&delivery->move_asked, true)
        && !mailbox_post(&delivery->inbox, &delivery->move.mail)) {
        atomic_store(&delivery->move_asked, false);
    }
    return err;
}

bool
delivery_is_healthy(struct delivery *delivery)
{
    return spool_is_healthy(delivery->spool);
}

struct spool *
delivery_spool(struct delivery *delivery)
{
    return delivery->spool;
}

void
delivery_flush(struct delivery *delivery, int timeout_ms)
{
    struct list flushed;
    if (!delivery->started || !mailbox_post(&delivery->inbox, &delivery->flush.mail)) {
        return;
    }
    mailbox_wait(&delivery->flushed, timeout_ms);
    mailbox_close(&delivery->flushed);
    list_init(&flushed);
    mailbox_take_all(&delivery->flushed, &flushed);
}

/* The wake-up of a thread that is told to stop. */
static void
nothing(struct store_task *task)
{
    (void)task;
}

void
delivery_stop(struct delivery *delivery)
{
    if (!delivery->started) {
        return;
    }
    struct store_task wake = {.run = nothing};
    link_init(&wake.mail.link);
    /* Or what the backend has accepted would be posted again by the next process. */
    delivery_post_give_back(delivery);
    atomic_store(&delivery->stopping, true);
    /* Refused when the thread has seen `stopping` by itself. */
    bool woken = mailbox_post(&delivery->inbox, &wake.mail);
    (void)woken;
    pthread_join(delivery->thread, NULL);
    delivery->started = false;
}

void
delivery_destroy(struct delivery *delivery)
{
    if (delivery == NULL) {
        return;
    }
    assert(!delivery->started && delivery->in_flight == 0 && delivery->settled_count == 0);
    for (struct link *link; (link = list_take_front(&delivery->ready)) != NULL;) {
        delivery_post_destroy(LIST_ENTRY(link, struct post, ready));
    }
    spool_destroy(delivery->spool);
    mailbox_fini(&delivery->flushed);
    mailbox_fini(&delivery->inbox);
    mem_free(delivery->url);
    mem_free(delivery);
}
