#include "engine.h"

#include <poll.h>

#include "clock.h"
#include "harness.h"
#include "http_server.h"

enum { PROXY, BLACKLIST, ACTIVITY };

#define RULES                                                                                      \
    "[{\"id\": 7, \"pattern\": \"^https?://([^/]*\\\\.)?blocked\\\\.test/\"}, {\"id\": 8, "        \
    "\"pattern\": \"(\"}]"
#define PROXY_42                                                                                   \
    "{\"id\": 42, \"ip\": \"127.0.0.1\", \"port\": 3128, \"protocol\": \"http\", \"is_working\": " \
    "true}"
#define PROXY_43                                                                                   \
    "{\"id\": 43, \"ip\": \"127.0.0.2\", \"port\": 3128, \"protocol\": \"http\", \"is_working\": " \
    "true}"
/* {"sub": "me", "user_id": 7} */
#define JWT "eyJhbGciOiJub25lIn0.eyJzdWIiOiAibWUiLCAidXNlcl9pZCI6IDd9.c2ln"

struct rig {
    struct http_server server;
    struct engine *engine;
    struct engine_config config;
    char urls[3][64];
    char message[ENGINE_MESSAGE_SIZE];
    struct request *requests[4]; /* released at the end, whatever became of them */
};

static void
rig_init(struct rig *rig)
{
    memset(rig, 0, sizeof *rig);
    http_server_start(&rig->server);
    for (int i = 0; i < 3; i++) {
        snprintf(rig->urls[i], sizeof rig->urls[i], "http://127.0.0.1:%d/said/%d", rig->server.port,
                 i);
        atomic_store(&rig->server.said[i].status, 200);
    }
    atomic_store(&rig->server.said[PROXY].body, PROXY_42);
    atomic_store(&rig->server.said[BLACKLIST].body, RULES);
    rig->config = (struct engine_config){
        .proxy_url = rig->urls[PROXY],
        .blacklist_url = rig->urls[BLACKLIST],
        .activity_url = rig->urls[ACTIVITY],
        .system_token = "system",
        .require_user_jwt = true,
        .user_id_claim = "user_id,sub",
        .refresh_ms = 60000,
        .blacklist_max_bytes = 1 << 20,
        .timeout_ms = 15000,
        .connect_timeout_ms = 5000,
        .queue_timeout_ms = 15000,
        .max_concurrent = 2,
        .proxy_retries = 2,
        .spool = {.directory = "", .max_bytes = 1 << 20},
    };
}

static void
release(struct rig *rig, size_t number)
{
    if (rig->requests[number] != NULL) {
        engine_release(rig->engine, rig->requests[number]);
        rig->requests[number] = NULL;
    }
}

static void
rig_fini(struct rig *rig)
{
    if (rig->engine != NULL) {
        engine_stop(rig->engine, 0);
        while (engine_take_decided(rig->engine) != NULL) {
        }
        for (size_t i = 0; i < COUNT_OF(rig->requests); i++) {
            release(rig, i);
        }
        engine_destroy(rig->engine);
    }
    http_server_stop(&rig->server);
}

#define RIG(name)                                                                                  \
    CLEANUP(rig_fini) struct rig name##_rig;                                                       \
    struct rig *name = &name##_rig;                                                                \
    rig_init(name)

static enum err
begin_engine(struct rig *rig)
{
    enum err err = engine_create(&rig->config, &rig->engine, rig->message);
    return err ? err : engine_start(rig->engine);
}

/* What the loop does when the descriptor is readable. */
static void
turn(struct rig *rig)
{
    struct pollfd fd = {.fd = engine_fd(rig->engine), .events = POLLIN};
    if (poll(&fd, 1, 10) > 0) {
        engine_drain(rig->engine);
    }
    engine_expire(rig->engine);
    while (engine_take_decided(rig->engine) != NULL) {
    }
    for (struct notice *notice; (notice = engine_take_notice(rig->engine)) != NULL;) {
        engine_notice_destroy(notice);
    }
}

static size_t
rules_of(struct rig *rig)
{
    struct engine_gauges gauges;
    turn(rig);
    engine_gauges(rig->engine, &gauges);
    return gauges.rules;
}

static bool
is_decided(struct rig *rig, struct request *request)
{
    turn(rig);
    return request_is_decided(request);
}

static struct slice
slice_of(const char *text)
{
    return (struct slice){text, strlen(text)};
}

static enum err
ask(struct rig *rig, size_t number, const char *host, const char *authorization)
{
    struct request_input input = {
        .method = SLICE_LITERAL("GET"),
        .target = {SLICE_LITERAL("http"), slice_of(host), 80, SLICE_LITERAL("/path?secret=1")},
        .host_header = slice_of(host),
        .authorization = slice_of(authorization),
    };
    /* A wait that ended early, as after a fault, has left the last one of this number. */
    release(rig, number);
    return engine_begin(rig->engine, &input, NULL, &rig->requests[number]);
}

static void
test_route_and_record(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    struct request *request = rig->requests[0];
    WAIT_UNTIL(is_decided(rig, request));
    REQUIRE(request_upstream(request) != NULL);
    CHECK_INT(request_upstream(request)->port, 3128);
    CHECK(request_takes_authorization(request));
    CHECK_STRING(request_loggable_url(request), "http://good.test/path?\xe2\x80\xa6");
    TRY(engine_record(rig->engine, request, 200));
    TRY(engine_record(rig->engine, request, 500)); /* the second one is none */
    engine_finish(rig->engine, request);
    engine_finish(rig->engine, request);
    WAIT_UNTIL(engine_counter(rig->engine, STATS_records_delivered) == 1);
    CHECK_INT(atomic_load(&rig->server.said[ACTIVITY].asked), 1);
}

/* Requests that come before the first list wait for it; the broken rule is left out. */
static void
test_blacklist(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    TRY(ask(rig, 0, "www.blocked.test", "Bearer " JWT));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    CHECK_INT(request_reason(rig->requests[0]), REASON_blacklisted);
    CHECK_STRING(request_detail(rig->requests[0]), "rule 7");
    CHECK_INT((long long)rules_of(rig), 1);
    TRY(ask(rig, 1, "BLOCKED.test.", "Bearer " JWT));
    CHECK(request_is_decided(rig->requests[1]));
    CHECK_INT(request_reason(rig->requests[1]), REASON_blacklisted);
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 0);
}

static void
test_no_rules(void)
{
    RIG(rig);
    atomic_store(&rig->server.said[BLACKLIST].body, "{}");
    TRY(begin_engine(rig));
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    CHECK_INT(request_reason(rig->requests[0]), REASON_no_rules);
}

static void
test_tokens(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    TRY(ask(rig, 0, "good.test", ""));
    CHECK_INT(request_reason(rig->requests[0]), REASON_no_token);
    TRY(ask(rig, 1, "good.test", "Bearer a b"));
    CHECK_INT(request_reason(rig->requests[1]), REASON_bad_token);
    TRY(ask(rig, 2, "good.test",
            "Basic dXNlcjpwYXNz")); /* the target's business, so there is no token */
    CHECK_INT(request_reason(rig->requests[2]), REASON_no_token);
    CHECK(!request_takes_authorization(rig->requests[2]));
}

static void
check_status(struct rig *rig, int status, const char *body, enum reason wanted)
{
    atomic_store(&rig->server.said[PROXY].status, status);
    atomic_store(&rig->server.said[PROXY].body, body);
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    CHECK_INT(request_reason(rig->requests[0]), wanted);
    CHECK(request_upstream(rig->requests[0]) == NULL);
    release(rig, 0);
}

static void
test_backend_answers(void)
{
    static const struct {
        int status;
        const char *body;
        enum reason reason;
    } cases[] = {
        {401, "", REASON_token_refused},
        {403, "", REASON_target_refused},
        {404, "", REASON_no_proxy},
        {500, "", REASON_backend_error},
        {302, "", REASON_backend_error},
        {200, "<html>", REASON_bad_answer},
        {200, "{\"id\": 1, \"ip\": \"127.0.0.1\", \"port\": 0}", REASON_bad_answer},
        {200, "{\"id\": 1, \"ip\": \"127.0.0.1\", \"port\": 1, \"is_working\": false}",
         REASON_proxy_not_working},
    };
    RIG(rig);
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        check_status(rig, cases[i].status, cases[i].body, cases[i].reason);
    }
}

static void
test_timeout(void)
{
    RIG(rig);
    rig->config.timeout_ms = 300;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    check_status(rig, 0, "", REASON_backend_timeout);
}

/* Two may run, two may wait in their order, the fifth is refused. */
static void
test_permits(void)
{
    RIG(rig);
    rig->config.max_concurrent = 1;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    TRY(ask(rig, 2, "good.test", "Bearer " JWT));
    CHECK_INT(request_reason(rig->requests[2]), REASON_overloaded);
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    CHECK(!request_is_decided(rig->requests[1]));
    engine_finish(rig->engine, rig->requests[0]);
    WAIT_UNTIL(is_decided(rig, rig->requests[1]));
    CHECK(request_upstream(rig->requests[1]) != NULL);
}

/* Whose client has gone gives its place to others at once, in either queue; who asks the backend
 * already is told the answer. */
static void
test_leave(void)
{
    RIG(rig);
    struct engine_gauges gauges;
    rig->config.max_concurrent = 1;
    TRY(begin_engine(rig));
    TRY(ask(rig, 3, "good.test", "Bearer " JWT)); /* waits for the rules */
    engine_leave(rig->engine, rig->requests[3]);
    CHECK(engine_take_decided(rig->engine) == rig->requests[3]);
    CHECK_INT(request_reason(rig->requests[3]), REASON_client_gone);
    WAIT_UNTIL(rules_of(rig) == 1);
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    engine_leave(rig->engine, rig->requests[1]);
    CHECK(engine_take_decided(rig->engine) == rig->requests[1]);
    CHECK_INT(request_reason(rig->requests[1]), REASON_client_gone);
    engine_leave(rig->engine, rig->requests[1]);
    CHECK(engine_take_decided(rig->engine) == NULL);
    engine_gauges(rig->engine, &gauges);
    CHECK_INT(gauges.permits_held, 1);
    CHECK_INT(gauges.permits_waiting, 0);
    TRY(ask(rig, 2, "good.test", "Bearer " JWT));
    CHECK(!request_is_decided(rig->requests[2]));
    engine_leave(rig->engine, rig->requests[0]);
    CHECK(!request_is_decided(rig->requests[0]));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    engine_finish(rig->engine, rig->requests[1]);
    CHECK(!request_is_decided(rig->requests[2]));
    engine_finish(rig->engine, rig->requests[0]);
    WAIT_UNTIL(is_decided(rig, rig->requests[2]));
    CHECK(request_upstream(rig->requests[2]) != NULL);
}

static void
test_retry(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    struct request *request = rig->requests[0];
    WAIT_UNTIL(is_decided(rig, request));
    REQUIRE(request_upstream(request) != NULL);
    atomic_store(&rig->server.said[PROXY].body, PROXY_43);
    TRY(engine_retry(rig->engine, request));
    WAIT_UNTIL(is_decided(rig, request));
    REQUIRE(request_upstream(request) != NULL);
    CHECK_STRING(request_upstream(request)->host, "127.0.0.2");
    /* The same proxy once more is no other, and the tries are used up by then. */
    TRY(engine_retry(rig->engine, request));
    WAIT_UNTIL(is_decided(rig, request));
    CHECK(request_upstream(request) == NULL);
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 3);
}

static void
test_judge(void)
{
    bool allowed;
    RIG(rig);
    TRY(begin_engine(rig));
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    struct url_parts same = {SLICE_LITERAL("http"), SLICE_LITERAL("good.test"), 80,
                             SLICE_LITERAL("/path?secret=1")};
    TRY(engine_judge(rig->engine, rig->requests[0], &same, &allowed));
    CHECK(allowed);
    struct url_parts other = same;
    other.host = slice_of("blocked.test");
    TRY(engine_judge(rig->engine, rig->requests[0], &other, &allowed));
    CHECK(!allowed);
    CHECK_INT(request_reason(rig->requests[0]), REASON_blacklisted);
}

/* Whoever waits when the engine stops gets an answer, and what was recorded is in the backend. */
static void
test_stop(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].status, 0);
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    WAIT_UNTIL(atomic_load(&rig->server.said[PROXY].asked) == 1);
    TRY(ask(rig, 1, "blocked.test", "Bearer " JWT));
    TRY(engine_record(rig->engine, rig->requests[1], 403));
    engine_stop(rig->engine, 10000);
    CHECK(engine_take_decided(rig->engine) == rig->requests[0]);
    CHECK_INT(request_reason(rig->requests[0]), REASON_shutting_down);
    CHECK_INT(atomic_load(&rig->server.said[ACTIVITY].asked), 1);
    TRY(ask(rig, 2, "good.test", "Bearer " JWT));
    CHECK_INT(request_reason(rig->requests[2]), REASON_shutting_down);
}

/* An answer that wants another question, but comes when the reactor is gone already. */
static void
test_stop_during_failover(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    REQUIRE(request_upstream(rig->requests[0]) != NULL);
    TRY(engine_retry(rig->engine, rig->requests[0]));
    struct pollfd fd = {.fd = engine_fd(rig->engine), .events = POLLIN};
    WAIT_UNTIL(poll(&fd, 1, 0) == 1);
    engine_stop(rig->engine, 0);
    CHECK(request_is_decided(rig->requests[0]));
    CHECK_INT(request_reason(rig->requests[0]), REASON_shutting_down);
}

/* One waits for the backend, one for a permit: both are answered, and what comes later is nobody's.
 */
static void
test_give_up(void)
{
    RIG(rig);
    rig->config.max_concurrent = 1;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].status, 0);
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    engine_give_up(rig->engine);
    for (int i = 0; i < 2; i++) {
        CHECK(request_is_decided(rig->requests[i]));
        CHECK_INT(request_reason(rig->requests[i]), REASON_shutting_down);
        CHECK(engine_take_decided(rig->engine) != NULL);
    }
}

static void
test_record_unfinished(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]) && is_decided(rig, rig->requests[1]));
    TRY(engine_record(rig->engine, rig->requests[0], 200));
    engine_record_unfinished(rig->engine);
    WAIT_UNTIL(engine_counter(rig->engine, STATS_records_delivered) == 2);
    CHECK(request_is_recorded(rig->requests[1]));
}

/* What is called in the wrong order is refused, and harms nothing. */
static void
test_calls_after_stop(void)
{
    RIG(rig);
    TRY(begin_engine(rig));
    CHECK(engine_start(rig->engine) == ERR_CLOSED);
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    engine_stop(rig->engine, 0);
    engine_stop(rig->engine, 0);
    CHECK(engine_start(rig->engine) == ERR_CLOSED);
    CHECK(engine_set_secrets(rig->engine, "fresh", NULL) == ERR_CLOSED);
    CHECK(engine_record(rig->engine, rig->requests[0], 200) == ERR_CLOSED);
    engine_refresh(rig->engine);
    struct engine_gauges gauges;
    engine_gauges(rig->engine, &gauges);
    CHECK_INT((long long)gauges.running, 1);
}

/* A backend that is away costs no record. */
static void
test_delivery_goes_on(void)
{
    RIG(rig);
    atomic_store(&rig->server.said[ACTIVITY].status, 500);
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    TRY(ask(rig, 0, "blocked.test", "Bearer " JWT));
    TRY(engine_record(rig->engine, rig->requests[0], 403));
    WAIT_UNTIL(engine_counter(rig->engine, STATS_records_retried) >= 1);
    CHECK_INT((long long)engine_counter(rig->engine, STATS_records_delivered), 0);
    atomic_store(&rig->server.said[ACTIVITY].status, 201);
    WAIT_UNTIL(engine_counter(rig->engine, STATS_records_delivered) == 1);
}

static void
test_new_secrets(void)
{
    RIG(rig);
    atomic_store(&rig->server.said[ACTIVITY].status, 401);
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    TRY(ask(rig, 0, "blocked.test", "Bearer " JWT));
    TRY(engine_record(rig->engine, rig->requests[0], 403));
    WAIT_UNTIL(atomic_load(&rig->server.said[ACTIVITY].asked) == 1);
    atomic_store(&rig->server.said[ACTIVITY].status, 200);
    TRY(engine_set_secrets(rig->engine, "fresh", NULL));
    /* At once, not after the pause. */
    WAIT_UNTIL(engine_counter(rig->engine, STATS_records_delivered) == 1);
}

#define PROXY_LEASED                                                                               \
    "{\"id\": 44, \"ip\": \"127.0.0.3\", \"port\": 3128, \"user_id\": 9, \"ttl\": 60}"

static bool
ask_and_wait(struct rig *rig, size_t number, const char *host, const char *token)
{
    double since = harness_seconds();
    if (ask(rig, number, host, token)) {
        return false;
    }
    while (!is_decided(rig, rig->requests[number]) && harness_may_wait(since)) {
    }
    return request_upstream(rig->requests[number]) != NULL;
}

/* One call serves all requests of this user to this host, and no other. */
static void
test_lease(void)
{
    RIG(rig);
    rig->config.max_concurrent = 10;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].body, PROXY_LEASED);
    REQUIRE(ask_and_wait(rig, 0, "good.test", "Bearer " JWT));
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 1);
    TRY(ask(rig, 1, "GOOD.test", "Bearer " JWT));
    REQUIRE(request_is_decided(rig->requests[1]) && request_upstream(rig->requests[1]) != NULL);
    CHECK_STRING(request_upstream(rig->requests[1])->host, "127.0.0.3");
    CHECK_INT((long long)engine_counter(rig->engine, STATS_leased), 1);
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 1);
    CHECK(ask_and_wait(rig, 2, "good.test", "Bearer other"));
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 2);
    CHECK(ask_and_wait(rig, 3, "www.good.test", "Bearer " JWT));
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 3);
}

/* A leased proxy that cannot be reached is asked about again, and is nobody's any more. */
static void
test_lease_is_dropped(void)
{
    RIG(rig);
    rig->config.proxy_retries = 0;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].body, PROXY_LEASED);
    REQUIRE(ask_and_wait(rig, 0, "good.test", "Bearer " JWT));
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    REQUIRE(request_upstream(rig->requests[1]) != NULL);
    release(rig, 0);
    atomic_store(&rig->server.said[PROXY].body, PROXY_42);
    TRY(engine_retry(rig->engine, rig->requests[1]));
    WAIT_UNTIL(is_decided(rig, rig->requests[1]));
    REQUIRE(request_upstream(rig->requests[1]) != NULL);
    CHECK_STRING(request_upstream(rig->requests[1])->host, "127.0.0.1");
    REQUIRE(ask_and_wait(rig, 0, "good.test", "Bearer " JWT));
    CHECK_STRING(request_upstream(rig->requests[0])->host, "127.0.0.1");
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 3);
}

/* Also by a request that has no time left to ask anybody else. */
static void
test_lease_is_dropped_too_late(void)
{
    RIG(rig);
    rig->config.max_concurrent = 10;
    rig->config.timeout_ms = 2000;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].body, PROXY_LEASED);
    REQUIRE(ask_and_wait(rig, 0, "good.test", "Bearer " JWT));
    WAIT_UNTIL(clock_now_ms() >= request_deadline_ms(rig->requests[0]));
    TRY(engine_retry(rig->engine, rig->requests[0]));
    CHECK(request_is_decided(rig->requests[0]));
    CHECK_INT(request_reason(rig->requests[0]), REASON_no_proxy);
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 1);
    REQUIRE(ask_and_wait(rig, 1, "good.test", "Bearer " JWT));
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 2);
}

/* Identical asks at the same time are one call, once the backend has granted a lease. */
static void
test_asks_are_coalesced(void)
{
    RIG(rig);
    rig->config.max_concurrent = 10;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].body, PROXY_LEASED);
    REQUIRE(ask_and_wait(rig, 0, "first.test", "Bearer " JWT));
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    TRY(ask(rig, 2, "good.test", "Bearer " JWT));
    TRY(ask(rig, 3, "good.test", "Bearer " JWT));
    CHECK(!request_is_decided(rig->requests[1]));
    engine_finish(rig->engine, rig->requests[3]); /* its client went away */
    WAIT_UNTIL(is_decided(rig, rig->requests[1]) && is_decided(rig, rig->requests[2]));
    CHECK(request_upstream(rig->requests[1]) != NULL);
    CHECK(request_upstream(rig->requests[2]) != NULL);
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 2);
}

/* The one answer that they waited for grants no lease after all: each asks for itself. */
static void
test_coalesced_in_vain(void)
{
    RIG(rig);
    rig->config.max_concurrent = 10;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].body, PROXY_LEASED);
    REQUIRE(ask_and_wait(rig, 0, "first.test", "Bearer " JWT));
    atomic_store(&rig->server.said[PROXY].body, PROXY_42);
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    TRY(ask(rig, 2, "good.test", "Bearer " JWT));
    TRY(ask(rig, 3, "good.test", "Bearer " JWT));
    for (size_t i = 1; i <= 3; i++) {
        WAIT_UNTIL(is_decided(rig, rig->requests[i]));
        CHECK(request_upstream(rig->requests[i]) != NULL);
    }
    CHECK_INT(atomic_load(&rig->server.said[PROXY].asked), 4);
}

/* Stopped while one asks and two wait for that answer. */
static void
test_stop_with_waiting(void)
{
    RIG(rig);
    rig->config.max_concurrent = 10;
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    atomic_store(&rig->server.said[PROXY].body, PROXY_LEASED);
    REQUIRE(ask_and_wait(rig, 0, "first.test", "Bearer " JWT));
    atomic_store(&rig->server.said[PROXY].status, 0);
    TRY(ask(rig, 1, "good.test", "Bearer " JWT));
    TRY(ask(rig, 2, "good.test", "Bearer " JWT));
    engine_stop(rig->engine, 0);
    CHECK(request_is_decided(rig->requests[1]) && request_is_decided(rig->requests[2]));
    CHECK_INT(request_reason(rig->requests[2]), REASON_shutting_down);
}

static void *
halt(void *engine)
{
    engine_halt(engine, 300);
    return NULL;
}

/* A garbage collection on another thread releases requests while the loop waits for the threads:
 * what the one touches the other does not, as ThreadSanitizer sees. */
static void
test_release_while_halting(void)
{
    RIG(rig);
    atomic_store(&rig->server.said[PROXY].status, 0);
    atomic_store(&rig->server.said[ACTIVITY].status, 0);
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    /* Two wait for the backend, two for a permit. */
    for (size_t i = 0; i < COUNT_OF(rig->requests); i++) {
        TRY(ask(rig, i, "good.test", "Bearer " JWT));
    }
    engine_give_up(rig->engine);
    while (engine_take_decided(rig->engine) != NULL) {
    }
    TRY(engine_record(rig->engine, rig->requests[0], 503));
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, halt, rig->engine) == 0);
    for (size_t i = 0; i < COUNT_OF(rig->requests); i++) {
        release(rig, i);
    }
    pthread_join(thread, NULL);
    engine_stop(rig->engine, 0);
    struct engine_gauges gauges;
    engine_gauges(rig->engine, &gauges);
    CHECK_INT((long long)gauges.running, 0);
}

/* In place of the GIL. */
static struct {
    pthread_mutex_t mutex;
    atomic_int left;
    atomic_bool released;
} gil = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void *
leave_gil(void)
{
    gil.left++;
    pthread_mutex_unlock(&gil.mutex);
    return &gil;
}

/* Not before the other thread has had its turn. */
static void
enter_gil(void *outside)
{
    CHECK(outside == &gil);
    double since = harness_seconds();
    while (!gil.released && harness_may_wait(since)) {
        continue;
    }
    pthread_mutex_lock(&gil.mutex);
}

/* A garbage collection on another thread. */
static void *
release_first(void *context)
{
    struct rig *rig = context;
    pthread_mutex_lock(&gil.mutex);
    if (gil.left > 0) {
        engine_release(rig->engine, rig->requests[0]);
        rig->requests[0] = NULL;
    }
    gil.released = true;
    pthread_mutex_unlock(&gil.mutex);
    return NULL;
}

/* Requests are released while a long URL is matched: outside of the GIL, as only such a one is. */
static void
test_release_while_matching(void)
{
    static char path[3000];
    RIG(rig);
    gil.left = 0;
    gil.released = false;
    rig->config.gate = (struct verdict_gate){leave_gil, enter_gil};
    TRY(begin_engine(rig));
    WAIT_UNTIL(rules_of(rig) == 1);
    TRY(ask(rig, 0, "good.test", "Bearer " JWT));
    WAIT_UNTIL(is_decided(rig, rig->requests[0]));
    CHECK_INT(gil.left, 0);
    memset(path, 'x', sizeof path);
    path[0] = '/';
    struct request_input input = {
        .method = SLICE_LITERAL("GET"),
        .target = {SLICE_LITERAL("http"), SLICE_LITERAL("blocked.test"), 80, {path, sizeof path}},
        .host_header = SLICE_LITERAL("blocked.test"),
        .authorization = SLICE_LITERAL("Bearer " JWT),
    };
    pthread_mutex_lock(&gil.mutex);
    pthread_t thread;
    bool made = pthread_create(&thread, NULL, release_first, rig) == 0;
    enum err err = made ? engine_begin(rig->engine, &input, NULL, &rig->requests[1]) : ERR_MEMORY;
    pthread_mutex_unlock(&gil.mutex);
    if (made) {
        pthread_join(thread, NULL);
    }
    TRY(err);
    CHECK_INT(request_reason(rig->requests[1]), REASON_blacklisted);
    CHECK_INT(gil.left, 1);
    CHECK(rig->requests[0] == NULL);
}

TESTS(TEST(lease), TEST(lease_is_dropped), TEST(lease_is_dropped_too_late),
      TEST(asks_are_coalesced), TEST(coalesced_in_vain), TEST(stop_with_waiting),
      TEST(route_and_record), TEST(blacklist), TEST(no_rules), TEST(tokens), TEST(backend_answers),
      TEST(timeout), TEST(permits), TEST(retry), TEST(judge),
      TEST(stop), TEST(stop_during_failover), TEST(give_up), TEST(record_unfinished), TEST(leave),
      TEST(calls_after_stop), TEST(delivery_goes_on), TEST(new_secrets),
      TEST(release_while_halting), TEST(release_while_matching))
