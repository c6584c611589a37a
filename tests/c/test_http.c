#include "http.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "harness.h"
#include "http_server.h"

#define TIMEOUT_MS 15000
#define TOKEN "Bearer canary-token"
#define KEY "0b8f1c9e-8a52-4f3c-9a39-2f5f3a0c1d11"

struct rig {
    struct http_server server;
    struct http_client *client;
};

static void
rig_fini(struct rig *rig)
{
    http_client_destroy(rig->client);
    http_server_stop(&rig->server);
}

static enum err
rig_init(struct rig *rig, int max_connections)
{
    enum err err = http_global_init();
    return err ? err
               : http_client_create(&(struct http_tls){0}, max_connections, 5000, &rig->client);
}

/* The server has to be there before the first TRY. */
#define RIG(name, max_connections)                                                                 \
    CLEANUP(rig_fini) struct rig name = {0};                                                       \
    http_server_start(&name.server);                                                               \
    TRY(rig_init(&name, (max_connections)))

/* A call with what the tests want to know about it. */
struct ask {
    struct http_call call;
    struct http_client *client;
    char url[256];
    int done;
    int turn;         /* how many had ended before */
    struct ask *next; /* started when this one ends */
    enum err next_err;
};

static int turns;

static void
ask_done(struct http_call *call)
{
    struct ask *ask = CONTAINER_OF(call, struct ask, call);
    ask->done++;
    ask->turn = turns++;
    if (ask->next != NULL) {
        ask->next_err = http_start(ask->client, &ask->next->call);
    }
}

static void
ask_fini(struct ask *ask)
{
    if (ask->call.handle != NULL) {
        http_cancel(ask->client, &ask->call);
        http_run(ask->client, 0);
    }
    http_call_fini(&ask->call);
}

static struct ask
ask_make(struct rig *rig, const char *path)
{
    struct ask ask = {
        .client = rig->client,
        .call = {.method = HTTP_GET, .timeout_ms = TIMEOUT_MS, .max_body = 65536, .done = ask_done},
    };
    snprintf(ask.url, sizeof ask.url, "http://127.0.0.1:%d%s", rig->server.port, path);
    return ask;
}

/* The struct moved when it was returned, so its own address comes last. */
#define ASK(name, rig, path)                                                                       \
    CLEANUP(ask_fini) struct ask name = ask_make(&(rig), (path));                                  \
    name.call.url = name.url

static bool
run_until_done(struct ask *ask)
{
    for (double since = harness_seconds();
         !ask->done && harness_seconds() - since < WAIT_SECONDS;) {
        http_run(ask->client, 100);
    }
    return ask->done == 1;
}

#define FINISH(name)                                                                               \
    do {                                                                                           \
        TRY(http_start((name).client, &(name).call));                                              \
        REQUIRE(run_until_done(&(name)));                                                          \
    } while (0)

static void
check_failed(const struct ask *ask, enum http_failure failure)
{
    CHECK_INT(ask->call.failure, failure);
    CHECK_INT(ask->call.status, 0);
    CHECK_INT((long long)ask->call.answer.len, 0);
    CHECK(ask->call.message[0] != '\0' && strchr(ask->call.message, '\n') == NULL);
    CHECK(strstr(ask->call.message, "canary") == NULL);
}

static bool
answer_has(const struct ask *ask, const char *text)
{
    return strstr(buf_string(&ask->call.answer), text) != NULL;
}

/* ---- answers ---- */

static void
test_get(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/ok");
    FINISH(ask);
    CHECK_INT(ask.call.failure, HTTP_FAILURE_NONE);
    CHECK_INT(ask.call.status, 200);
    CHECK_STRING(buf_string(&ask.call.answer), "hello");
    CHECK_STRING(ask.call.etag, "\"v1\"");
    CHECK_INT(ask.call.retry_after_ms, -1);
}

static void
test_not_modified(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/ok");
    ask.call.if_none_match = "\"v1\"";
    FINISH(ask);
    CHECK_INT(ask.call.status, 304);
    CHECK_INT((long long)ask.call.answer.len, 0);
}

static void
test_error_statuses_are_answers(void)
{
    RIG(rig, 4);
    ASK(missing, rig, "/status/404");
    FINISH(missing);
    CHECK_INT(missing.call.failure, HTTP_FAILURE_NONE);
    CHECK_INT(missing.call.status, 404);
    ASK(broken, rig, "/status/500");
    FINISH(broken);
    CHECK_INT(broken.call.status, 500);
    ASK(redirect, rig, "/redirect");
    FINISH(redirect);
    CHECK_INT(redirect.call.status, 302);
    CHECK_INT(rig.server.requests, 3);
}

static void
test_bad_etag_is_ignored(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/bad-etag");
    FINISH(ask);
    CHECK_INT(ask.call.status, 200);
    CHECK_STRING(ask.call.etag, "");
}

static void
test_retry_after(void)
{
    static const struct {
        const char *path;
        int64_t ms;
    } cases[] = {
        {"/retry/7", 7000},
        {"/retry/0", 0},
        {"/retry/99999999999999999999", 86400000},
        {"/retry/Fri,_31_Dec_2049_23:59:59_GMT", 86400000},
        {"/retry/Sun,_06_Nov_1994_08:49:37_GMT", 0},
        {"/retry/soon", -1},
        {"/retry/-5", -1},
        {"/retry/1.5", -1},
        {"/retry/Some_day", -1},
        {"/retry/20491231_23:59:59", -1},
    };
    RIG(rig, 4);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        ASK(ask, rig, cases[i].path);
        FINISH(ask);
        CHECK_INT(ask.call.status, 503);
        CHECK_INT(ask.call.retry_after_ms, cases[i].ms);
    }
}

/* ---- what is sent ---- */

static void
test_post(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/echo");
    ask.call.method = HTTP_POST;
    ask.call.authorization = TOKEN;
    ask.call.idempotency_key = KEY;
    ask.call.body = SLICE_LITERAL("{\"a\":1}");
    FINISH(ask);
    CHECK_INT(ask.call.status, 200);
    CHECK(strncmp(buf_string(&ask.call.answer), "POST /echo HTTP/1.1\r\n", 21) == 0);
    CHECK(answer_has(&ask, "\r\nAuthorization: " TOKEN "\r\n"));
    CHECK(answer_has(&ask, "\r\nIdempotency-Key: " KEY "\r\n"));
    CHECK(answer_has(&ask, "\r\nContent-Type: application/json\r\n"));
    CHECK(answer_has(&ask, "\r\nAccept: application/json\r\n"));
    CHECK(answer_has(&ask, "\r\nAccept-Encoding: identity\r\n"));
    CHECK(answer_has(&ask, "\r\nUser-Agent: mitm-forwarder/" FORWARDER_VERSION "\r\n"));
    CHECK(answer_has(&ask, "\r\nContent-Length: 7\r\n"));
    CHECK(answer_has(&ask, "\r\n\r\n{\"a\":1}"));
    CHECK(!answer_has(&ask, "Cookie"));
}

static void
test_large_post_does_not_wait(void)
{
    static char body[1500000]; /* libcurl would ask first from 1 MiB on */
    RIG(rig, 4);
    ASK(ask, rig, "/echo");
    memset(body, 'x', sizeof body);
    ask.call.max_body = 2 * sizeof body;
    ask.call.method = HTTP_POST;
    ask.call.body = (struct slice){body, sizeof body};
    FINISH(ask);
    CHECK(answer_has(&ask, "\r\nContent-Length: 1500000\r\n"));
    CHECK(!answer_has(&ask, "Expect"));
}

static void
test_empty_post(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/echo");
    ask.call.method = HTTP_POST;
    FINISH(ask);
    CHECK(answer_has(&ask, "\r\nContent-Length: 0\r\n"));
}

static void
test_nothing_leaks_into_the_next_call(void)
{
    RIG(rig, 1);
    ASK(first, rig, "/echo");
    first.call.method = HTTP_POST;
    first.call.authorization = TOKEN;
    first.call.idempotency_key = KEY;
    first.call.if_none_match = "\"v1\"";
    first.call.body = SLICE_LITERAL("{}");
    FINISH(first);
    ASK(second, rig, "/echo");
    FINISH(second);
    CHECK(strncmp(buf_string(&second.call.answer), "GET /echo HTTP/1.1\r\n", 20) == 0);
    CHECK(!answer_has(&second, "Authorization"));
    CHECK(!answer_has(&second, "Idempotency"));
    CHECK(!answer_has(&second, "If-None-Match"));
    CHECK(!answer_has(&second, "Content-"));
    CHECK_INT(rig.server.connections, 1);
}

static void
test_path_as_is(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/echo/../a/./b?target_url=http%3A%2F%2Fx.test%2F..");
    FINISH(ask);
    CHECK(answer_has(&ask, "GET /echo/../a/./b?target_url=http%3A%2F%2Fx.test%2F.. HTTP/1.1\r\n"));
}

static void
test_invalid_values_are_refused(void)
{
    static const char *const values[] = {"",     " a",   "a ",    "a\r\nX: y",
                                         "a\nb", "a\rb", "a\x01", "a\x7f"};
    static const char *const urls[] = {"",
                                       "127.0.0.1/",
                                       "ftp://127.0.0.1/",
                                       "file:///etc/passwd",
                                       "http://a/ b",
                                       "http://a/\r\nX: y",
                                       "http://a/\xc3\xa4"};
    RIG(rig, 4);
    for (size_t i = 0; i < 3 * COUNT_OF(values); i++) {
        ASK(ask, rig, "/ok");
        const char **fields[] = {&ask.call.authorization, &ask.call.idempotency_key,
                                 &ask.call.if_none_match};
        *fields[i % 3] = values[i / 3];
        CHECK_INT(http_start(rig.client, &ask.call), ERR_INVALID);
    }
    for (size_t i = 0; i < COUNT_OF(urls); i++) {
        ASK(ask, rig, "/ok");
        ask.call.url = urls[i];
        CHECK_INT(http_start(rig.client, &ask.call), ERR_INVALID);
    }
    http_run(rig.client, 0);
    CHECK_INT(rig.server.requests, 0);
}

static void
test_user_in_url_is_refused(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/echo");
    snprintf(ask.url, sizeof ask.url, "http://me:canary@127.0.0.1:%d/echo", rig.server.port);
    FINISH(ask);
    check_failed(&ask, HTTP_FAILURE_CONNECT);
    CHECK_INT(rig.server.connections, 0);
}

static void
test_environment_is_ignored(void)
{
    static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
                                        "ALL_PROXY"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        setenv(names[i], "http://127.0.0.1:1", 1);
    }
    setenv("no_proxy", "*.test", 1);
    struct rig rig = {0};
    http_server_start(&rig.server);
    enum err err = rig_init(&rig, 4);
    int status = 0;
    if (!err) {
        ASK(ask, rig, "/ok");
        err = http_start(rig.client, &ask.call);
        status = !err && run_until_done(&ask) ? ask.call.status : 0;
    }
    rig_fini(&rig);
    unsetenv("no_proxy");
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        unsetenv(names[i]);
    }
    TRY(err);
    CHECK_INT(status, 200);
}

/* ---- failures ---- */

static void
test_timeout(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/silent");
    ask.call.authorization = TOKEN;
    ask.call.timeout_ms = 200;
    double since = harness_seconds();
    FINISH(ask);
    double waited = harness_seconds() - since;
    check_failed(&ask, HTTP_FAILURE_TIMEOUT);
    CHECK(waited >= 0.15 && waited < 5);
}

static void
test_no_time_at_all(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/ok");
    ask.call.timeout_ms = 0;
    FINISH(ask);
    check_failed(&ask, HTTP_FAILURE_TIMEOUT);
    CHECK_INT(rig.server.connections, 0);
}

static void
test_connection_refused(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/ok");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    /* Bound and not listening: nobody else can get this port meanwhile. */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool bound = bind(fd, (struct sockaddr *)&address, size) == 0 &&
                 getsockname(fd, (struct sockaddr *)&address, &size) == 0;
    snprintf(ask.url, sizeof ask.url, "http://127.0.0.1:%d/?canary", ntohs(address.sin_port));
    ask.call.authorization = TOKEN;
    bool done = bound && !http_start(rig.client, &ask.call) && run_until_done(&ask);
    close(fd);
    REQUIRE(done);
    check_failed(&ask, HTTP_FAILURE_CONNECT);
}

static void
test_unknown_name(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/ok");
    /* A label that is too long: no name server has to be asked. */
    ask.call.url =
        "http://a123456789a123456789a123456789a123456789a123456789a123456789a123456789.test/"
        "?canary";
    FINISH(ask);
    check_failed(&ask, HTTP_FAILURE_CONNECT);
}

/* The server waits for the rest of a request, libcurl for the rest of the handshake. */
static void
test_connect_timeout(void)
{
    RIG(rig, 4);
    http_client_destroy(rig.client);
    rig.client = NULL;
    TRY(http_client_create(&(struct http_tls){0}, 4, 100, &rig.client));
    ASK(ask, rig, "/ok");
    snprintf(ask.url, sizeof ask.url, "https://127.0.0.1:%d/?canary", rig.server.port);
    FINISH(ask);
    check_failed(&ask, HTTP_FAILURE_CONNECT);
}

static void
test_reset_within_the_body(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/reset");
    FINISH(ask);
    check_failed(&ask, HTTP_FAILURE_BROKEN);
}

static void
test_garbage(void)
{
    RIG(rig, 4);
    ASK(ask, rig, "/garbage");
    ask.call.authorization = TOKEN;
    FINISH(ask);
    check_failed(&ask, HTTP_FAILURE_BROKEN);
}

static void
test_too_large(void)
{
    RIG(rig, 4);
    ASK(by_length, rig, "/length");
    FINISH(by_length);
    check_failed(&by_length, HTTP_FAILURE_TOO_LARGE);
    ASK(chunked, rig, "/chunked");
    FINISH(chunked);
    check_failed(&chunked, HTTP_FAILURE_TOO_LARGE);
    ASK(none_allowed, rig, "/ok");
    none_allowed.call.max_body = 0;
    FINISH(none_allowed);
    check_failed(&none_allowed, HTTP_FAILURE_TOO_LARGE);
    ASK(just_fits, rig, "/ok");
    just_fits.call.max_body = 5;
    FINISH(just_fits);
    CHECK_INT(just_fits.call.status, 200);
    CHECK_INT((long long)just_fits.call.answer.len, 5);
}

/* ---- connections ---- */

static void
test_keep_alive(void)
{
    RIG(rig, 4);
    for (int i = 0; i < 5; i++) {
        ASK(ask, rig, "/ok");
        FINISH(ask);
        CHECK_INT(ask.call.status, 200);
    }
    CHECK_INT(rig.server.connections, 1);
    CHECK_INT(rig.server.requests, 5);
}

static void
test_reused_connection_that_died(void)
{
    RIG(rig, 4);
    ASK(first, rig, "/last");
    FINISH(first);
    ASK(second, rig, "/echo");
    second.call.method = HTTP_POST;
    second.call.idempotency_key = KEY;
    second.call.body = SLICE_LITERAL("{}");
    FINISH(second);
    CHECK_INT(second.call.status, 200);
    CHECK_INT(rig.server.connections, 2);
}

static void
test_connection_limit(void)
{
    RIG(rig, 2);
    ASK(a, rig, "/silent");
    ASK(b, rig, "/silent");
    ASK(c, rig, "/silent");
    ASK(d, rig, "/silent");
    struct ask *asks[] = {&a, &b, &c, &d};
    for (size_t i = 0; i < COUNT_OF(asks); i++) {
        asks[i]->call.timeout_ms = i < 2 ? TIMEOUT_MS : 300;
        TRY(http_start(rig.client, &asks[i]->call));
    }
    /* Their time runs while they wait. */
    REQUIRE(run_until_done(&c) && run_until_done(&d));
    check_failed(&c, HTTP_FAILURE_TIMEOUT);
    check_failed(&d, HTTP_FAILURE_TIMEOUT);
    CHECK(!a.done && !b.done);
    CHECK_INT(rig.server.connections, 2);
    CHECK_INT(rig.server.most_open, 2);
}

static void
test_waiting_calls_go_in_order(void)
{
    RIG(rig, 1);
    ASK(a, rig, "/ok");
    ASK(b, rig, "/ok");
    ASK(c, rig, "/ok");
    struct ask *asks[] = {&a, &b, &c};
    turns = 0;
    for (size_t i = 0; i < COUNT_OF(asks); i++) {
        TRY(http_start(rig.client, &asks[i]->call));
    }
    REQUIRE(run_until_done(&a) && run_until_done(&b) && run_until_done(&c));
    for (int i = 0; i < 3; i++) {
        CHECK_INT(asks[i]->turn, i);
        CHECK_INT(asks[i]->call.status, 200);
    }
    CHECK_INT(rig.server.connections, 1);
}

static void
test_done_may_start_another(void)
{
    RIG(rig, 1);
    ASK(second, rig, "/ok");
    ASK(first, rig, "/ok");
    first.next = &second;
    FINISH(first);
    TRY(first.next_err);
    REQUIRE(run_until_done(&second));
    CHECK_INT(second.call.status, 200);
}

/* ---- ending early ---- */

static void
test_cancel(void)
{
    RIG(rig, 1);
    ASK(running, rig, "/silent");
    ASK(waiting, rig, "/silent");
    ASK(after, rig, "/ok");
    TRY(http_start(rig.client, &running.call));
    TRY(http_start(rig.client, &waiting.call));
    TRY(http_start(rig.client, &after.call));
    for (double since = harness_seconds();
         rig.server.open_requests < 1 && harness_may_wait(since);) {
        http_run(rig.client, 10);
    }
    http_cancel(rig.client, &running.call);
    http_cancel(rig.client, &waiting.call);
    CHECK(!running.done && !waiting.done);
    REQUIRE(run_until_done(&running) && run_until_done(&waiting));
    check_failed(&running, HTTP_FAILURE_CANCELLED);
    check_failed(&waiting, HTTP_FAILURE_CANCELLED);
    http_cancel(rig.client, &running.call); /* has ended: nothing happens */
    REQUIRE(run_until_done(&after));
    CHECK_INT(after.call.status, 200);
    CHECK_INT(running.done, 1);
}

static void
test_destroy_with_calls(void)
{
    RIG(rig, 1);
    ASK(late, rig, "/ok");
    ASK(running, rig, "/silent");
    ASK(waiting, rig, "/ok");
    running.next = &late;
    TRY(http_start(rig.client, &running.call));
    TRY(http_start(rig.client, &waiting.call));
    http_run(rig.client, 0);
    http_client_destroy(rig.client);
    rig.client = NULL;
    CHECK_INT(running.done, 1);
    CHECK_INT(waiting.done, 1);
    check_failed(&running, HTTP_FAILURE_CANCELLED);
    check_failed(&waiting, HTTP_FAILURE_CANCELLED);
    CHECK_INT(running.next_err, ERR_CLOSED);
    CHECK_INT(late.done, 0);
}

static void *
wake_main(void *client)
{
    http_wake(client);
    return NULL;
}

static void
test_wake(void)
{
    pthread_t thread;
    RIG(rig, 1);
    double since = harness_seconds();
    int rc = pthread_create(&thread, NULL, wake_main, rig.client);
    REQUIRE(rc == 0);
    http_run(rig.client, 60000);
    pthread_join(thread, NULL);
    CHECK(harness_seconds() - since < 20);
}

/* ---- the rest ---- */

static void
test_library_version(void)
{
    TRY(http_global_init());
    CHECK(strchr(http_library_version(), '.') != NULL &&
          strchr(http_library_version(), ' ') != NULL);
}

TESTS(TEST(get), TEST(not_modified), TEST(error_statuses_are_answers), TEST(bad_etag_is_ignored),
      TEST(retry_after), TEST(post), TEST(large_post_does_not_wait), TEST(empty_post),
      TEST(nothing_leaks_into_the_next_call), TEST(path_as_is), TEST(invalid_values_are_refused),
      TEST(user_in_url_is_refused), TEST(environment_is_ignored), TEST(timeout),
      TEST(no_time_at_all), TEST(connection_refused), TEST(unknown_name), TEST(connect_timeout),
      TEST(reset_within_the_body), TEST(garbage), TEST(too_large), TEST(keep_alive),
      TEST(reused_connection_that_died), TEST(connection_limit), TEST(waiting_calls_go_in_order),
      TEST(done_may_start_another), TEST(cancel), TEST(destroy_with_calls), TEST(wake),
      TEST(library_version))
