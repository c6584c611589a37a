#include "reactor.h"

#include <pthread.h>

#include "clock.h"
#include "harness.h"
#include "http_server.h"

#define PRODUCERS 4
#define TASKS_EACH 500

static void
reactor_end(struct reactor **reactor)
{
    if (*reactor != NULL) {
        reactor_stop(*reactor);
        reactor_destroy(*reactor);
    }
}

static enum err
begin(struct reactor **reactor)
{
    enum err err = reactor_create(&(struct http_tls){NULL, NULL, NULL}, 4, 1000, reactor);
    return err ? err : reactor_start(*reactor);
}

/* ---- tasks ---- */

struct count_task {
    struct reactor_task task;
    atomic_int *count;
};

static void
count_one(struct reactor_task *task)
{
    struct count_task *counted = CONTAINER_OF(task, struct count_task, task);
    atomic_fetch_add(counted->count, 1);
    mem_free(counted);
}

static enum err
post_one(struct reactor *reactor, atomic_int *count)
{
    struct count_task *counted = mem_zalloc(sizeof *counted);
    if (counted == NULL) {
        return ERR_MEMORY;
    }
    link_init(&counted->task.mail.link);
    counted->task.run = count_one;
    counted->count = count;
    if (!reactor_post(reactor, &counted->task)) {
        mem_free(counted);
        return ERR_CLOSED;
    }
    return ERR_OK;
}

struct producer {
    pthread_t thread;
    struct reactor *reactor;
    atomic_int *count;
    int posted;
};

static void *
produce(void *context)
{
    struct producer *producer = context;
    for (int i = 0; i < TASKS_EACH; i++) {
        producer->posted += post_one(producer->reactor, producer->count) == ERR_OK;
    }
    return NULL;
}

static void
test_tasks(void)
{
    CLEANUP(reactor_end) struct reactor *reactor = NULL;
    struct producer producers[PRODUCERS];
    atomic_int count = 0;
    TRY(begin(&reactor));
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.reactor = reactor, .count = &count};
        pthread_create(&producers[i].thread, NULL, produce, &producers[i]);
    }
    int posted = 0;
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i].thread, NULL);
        posted += producers[i].posted;
    }
    CHECK_INT(posted, PRODUCERS * TASKS_EACH);
    WAIT_UNTIL(atomic_load(&count) == posted);
}

/* A task that was posted is run, also when the reactor is told to stop in the same moment. */
static void
test_stop_runs_what_was_posted(void)
{
    atomic_int count = 0;
    CLEANUP(reactor_end) struct reactor *reactor = NULL;
    TRY(begin(&reactor));
    TRY(post_one(reactor, &count));
    reactor_stop(reactor);
    CHECK_INT(atomic_load(&count), 1);
    CHECK(post_one(reactor, &count) == ERR_CLOSED);
}

static void
test_never_started(void)
{
    atomic_int count = 0;
    CLEANUP(reactor_end) struct reactor *reactor = NULL;
    TRY(reactor_create(&(struct http_tls){NULL, NULL, NULL}, 4, 1000, &reactor));
    TRY(post_one(reactor, &count));
    reactor_stop(reactor);
    CHECK_INT(atomic_load(&count), 1);
}

/* ---- timers ---- */

struct timed {
    struct reactor_task task;
    struct reactor *reactor;
    struct reactor_timer soon, later, never;
    atomic_int order;   /* decimal digits in the order of firing */
};

static void
note(struct timed *timed, int digit)
{
    atomic_store(&timed->order, atomic_load(&timed->order) * 10 + digit);
}

static void
fire_soon(struct reactor_timer *timer)
{
    struct timed *timed = CONTAINER_OF(timer, struct timed, soon);
    note(timed, 1);
    reactor_disarm(&timed->never);
}

static void
fire_later(struct reactor_timer *timer)
{
    note(CONTAINER_OF(timer, struct timed, later), 2);
}

static void
fire_never(struct reactor_timer *timer)
{
    note(CONTAINER_OF(timer, struct timed, never), 9);
}

static void
arm_all(struct reactor_task *task)
{
    struct timed *timed = CONTAINER_OF(task, struct timed, task);
    int64_t now_ms = clock_now_ms();
    reactor_arm(timed->reactor, &timed->later, now_ms + 60000);
    reactor_arm(timed->reactor, &timed->never, now_ms + 30);
    reactor_arm(timed->reactor, &timed->soon, now_ms + 5);
    reactor_arm(timed->reactor, &timed->later, now_ms + 60);   /* moved */
}

static void
test_timers(void)
{
    CLEANUP(reactor_end) struct reactor *reactor = NULL;
    struct timed timed = {.order = 0};
    TRY(begin(&reactor));
    link_init(&timed.task.mail.link);
    timed.task.run = arm_all;
    timed.reactor = reactor;
    reactor_timer_init(&timed.soon, fire_soon);
    reactor_timer_init(&timed.later, fire_later);
    reactor_timer_init(&timed.never, fire_never);
    REQUIRE(reactor_post(reactor, &timed.task));
    WAIT_UNTIL(atomic_load(&timed.order) >= 12);
    CHECK_INT(atomic_load(&timed.order), 12);
}

/* ---- calls ---- */

struct fetch {
    struct reactor_task task;
    struct reactor *reactor;
    struct http_call call;
    char url[80];
    atomic_int ended;   /* 1 + failure */
};

static void
fetched(struct http_call *call)
{
    struct fetch *fetch = CONTAINER_OF(call, struct fetch, call);
    http_call_fini(call);
    atomic_store(&fetch->ended, 1 + (int)call->failure);
}

static void
start_fetch(struct reactor_task *task)
{
    struct fetch *fetch = CONTAINER_OF(task, struct fetch, task);
    fetch->call.method = HTTP_GET;
    fetch->call.url = fetch->url;
    fetch->call.timeout_ms = 20000;
    fetch->call.max_body = 1000;
    fetch->call.done = fetched;
    if (http_start(reactor_http(fetch->reactor), &fetch->call)) {
        atomic_store(&fetch->ended, -1);
    }
}

static void
fetch_init(struct fetch *fetch, struct reactor *reactor, int port, const char *path)
{
    *fetch = (struct fetch){.reactor = reactor};
    link_init(&fetch->task.mail.link);
    fetch->task.run = start_fetch;
    snprintf(fetch->url, sizeof fetch->url, "http://127.0.0.1:%d%s", port, path);
}

static void
test_call(void)
{
    CLEANUP(http_server_stop) struct http_server server;
    CLEANUP(reactor_end) struct reactor *reactor = NULL;
    struct fetch fetch;
    http_server_start(&server);
    TRY(begin(&reactor));
    fetch_init(&fetch, reactor, server.port, "/ok");
    REQUIRE(reactor_post(reactor, &fetch.task));
    WAIT_UNTIL(atomic_load(&fetch.ended) != 0);
    CHECK_INT(atomic_load(&fetch.ended), 1 + HTTP_FAILURE_NONE);
}

/* What is on the wire when everything stops ends as cancelled, and is told so. */
static void
test_stop_cancels_calls(void)
{
    CLEANUP(http_server_stop) struct http_server server;
    struct fetch fetch;
    CLEANUP(reactor_end) struct reactor *reactor = NULL;
    http_server_start(&server);
    TRY(begin(&reactor));
    fetch_init(&fetch, reactor, server.port, "/silent");
    REQUIRE(reactor_post(reactor, &fetch.task));
    WAIT_UNTIL(atomic_load(&server.open_requests) == 1 || atomic_load(&fetch.ended) != 0);
    reactor_stop(reactor);
    reactor_destroy(reactor);
    reactor = NULL;
    CHECK_INT(atomic_load(&fetch.ended), 1 + HTTP_FAILURE_CANCELLED);
}

TESTS(TEST(tasks), TEST(stop_runs_what_was_posted), TEST(never_started), TEST(timers), TEST(call),
      TEST(stop_cancels_calls))
