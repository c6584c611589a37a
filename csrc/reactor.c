#include "reactor.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "clock.h"
#include "mem.h"

/* Between two wake-ups when nothing is due: only a safety net, wake-ups do not get lost. */
#define IDLE_WAIT_MS 10000

struct reactor {
    struct http_client *http;
    struct mailbox inbox;
    struct list timers; /* unordered: there are a handful */
    pthread_t thread;
    bool started; /* the loop's */
    atomic_bool stopping;
};

static void
wake(void *context)
{
    struct reactor *reactor = context;
    http_wake(reactor->http);
}

enum err
reactor_create(const struct http_tls *tls, int max_connections, int connect_timeout_ms,
               struct reactor **out)
{
    struct reactor *reactor = mem_zalloc(sizeof *reactor);
    if (reactor == NULL) {
        return ERR_MEMORY;
    }
    enum err err = http_client_create(tls, max_connections, connect_timeout_ms, &reactor->http);
    if (err) {
        mem_free(reactor);
        return err;
    }
    mailbox_init_wake(&reactor->inbox, wake, reactor);
    list_init(&reactor->timers);
    *out = reactor;
    return ERR_OK;
}

void
reactor_destroy(struct reactor *reactor)
{
    if (reactor == NULL) {
        return;
    }
    assert(!reactor->started);
    /* Not in reactor_stop: a producer that posted just before the box was closed may still be about
     * to wake the client. */
    http_client_destroy(reactor->http);
    mailbox_fini(&reactor->inbox);
    mem_free(reactor);
}

static void
run_tasks(struct reactor *reactor)
{
    struct list tasks;
    list_init(&tasks);
    mailbox_take_all(&reactor->inbox, &tasks);
    for (struct link *link; (link = list_take_front(&tasks)) != NULL;) {
        struct mail *mail = LIST_ENTRY(link, struct mail, link);
        struct reactor_task *task = CONTAINER_OF(mail, struct reactor_task, mail);
        task->run(task);
    }
}

/* Fires what is due and returns the time until the next one.  A timer may arm and disarm any timer
 * while it fires, so the walk starts again after each. */
static int
run_timers(struct reactor *reactor)
{
    for (;;) {
        int64_t now_ms = clock_now_ms();
        int64_t next_ms = now_ms + IDLE_WAIT_MS;
        struct reactor_timer *due = NULL;
        LIST_FOR_EACH(link, &reactor->timers)
        {
            struct reactor_timer *timer = LIST_ENTRY(link, struct reactor_timer, link);
            if (timer->due_ms <= now_ms) {
                due = timer;
                break;
            }
            next_ms = timer->due_ms < next_ms ? timer->due_ms : next_ms;
        }
        if (due == NULL) {
            return (int)(next_ms - now_ms);
        }
        link_remove(&due->link);
        due->fire(due);
    }
}

static void *
reactor_main(void *context)
{
    struct reactor *reactor = context;
    while (!atomic_load(&reactor->stopping)) {
        run_tasks(reactor);
        http_run(reactor->http, run_timers(reactor));
    }
    /* No task may be lost: whoever posted before the box was closed expects its `run`. */
    mailbox_close(&reactor->inbox);
    run_tasks(reactor);
    return NULL;
}

enum err
reactor_start(struct reactor *reactor)
{
    /* The thread takes no signals: they are the main thread's, and SIGPIPE would end the process.
     */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&reactor->thread, NULL, reactor_main, reactor);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        return ERR_IO;
    }
    reactor->started = true;
    return ERR_OK;
}

void
reactor_stop(struct reactor *reactor)
{
    if (!reactor->started) {
        mailbox_close(&reactor->inbox);
        run_tasks(reactor);
        return;
    }
    atomic_store(&reactor->stopping, true);
    http_wake(reactor->http);
    pthread_join(reactor->thread, NULL);
    reactor->started = false;
}

bool
reactor_post(struct reactor *reactor, struct reactor_task *task)
{
    return mailbox_post(&reactor->inbox, &task->mail);
}

struct http_client *
reactor_http(struct reactor *reactor)
{
    return reactor->http;
}

bool
reactor_is_stopping(const struct reactor *reactor)
{
    return atomic_load(&reactor->stopping);
}

void
reactor_timer_init(struct reactor_timer *timer, void (*fire)(struct reactor_timer *timer))
{
    link_init(&timer->link);
    timer->due_ms = CLOCK_NEVER;
    timer->fire = fire;
}

void
reactor_arm(struct reactor *reactor, struct reactor_timer *timer, int64_t due_ms)
{
    link_remove(&timer->link);
    timer->due_ms = due_ms;
    list_push_back(&reactor->timers, &timer->link);
}

void
reactor_disarm(struct reactor_timer *timer)
{
    link_remove(&timer->link);
}
