#include "leases.h"

#include "clock.h"
#include "harness.h"
#include "mem.h"

static void
fini(struct leases **leases)
{
    clock_set_ms(-1);
    leases_destroy(*leases);
}

#define LEASES(name, max)                                                                          \
    CLEANUP(fini) struct leases *name = NULL;                                                      \
    clock_set_ms(1000);                                                                            \
    TRY(leases_create((max), &name))

#define KEY(text) SLICE_LITERAL("http://a.test " text)

static enum err
put(struct leases *leases, struct slice key, int port, int64_t duration_ms)
{
    struct lease lease = {.reason = REASON_NONE,
                          .upstream = {.host = "proxy.test",
                                       .port = port,
                                       .username = "me",
                                       .password = "secret",
                                       .id = {.kind = WIRE_ID_INTEGER, .integer = port}},
                          .user_id = {.kind = WIRE_ID_STRING, .string = "u7"}};
    return leases_put(leases, key, &lease, duration_ms);
}

static int
port_of(struct leases *leases, struct slice key)
{
    const struct lease *lease = leases_get(leases, key);
    return lease != NULL ? lease->upstream.port : 0;
}

static void
test_life(void)
{
    LEASES(leases, 10);
    CHECK(!leases_are_granted(leases));
    CHECK(leases_get(leases, KEY("t1")) == NULL);
    TRY(put(leases, KEY("t1"), 1, 500));
    CHECK(leases_are_granted(leases));
    const struct lease *lease = leases_get(leases, KEY("t1"));
    REQUIRE(lease != NULL);
    CHECK_STRING(lease->upstream.host, "proxy.test");
    CHECK_STRING(lease->upstream.password, "secret");
    CHECK_STRING(lease->user_id.string, "u7");
    CHECK_INT(port_of(leases, KEY("t2")), 0);
    clock_set_ms(1499);
    CHECK_INT(port_of(leases, KEY("t1")), 1);
    clock_set_ms(1500);
    CHECK_INT(port_of(leases, KEY("t1")), 0);
}

static void
test_put_again_and_drop(void)
{
    LEASES(leases, 10);
    TRY(put(leases, KEY("t"), 1, 500));
    TRY(put(leases, KEY("t"), 2, 500));
    CHECK_INT(port_of(leases, KEY("t")), 2);
    leases_drop(leases, KEY("t"));
    CHECK_INT(port_of(leases, KEY("t")), 0);
    leases_drop(leases, KEY("t"));
    TRY(put(leases, KEY("t"), 3, 500));
    TRY(put(leases, KEY("t"), 4, 0)); /* no-store: what was there is gone */
    CHECK_INT(port_of(leases, KEY("t")), 0);
    CHECK(!leases_are_granted(leases));
}

static void
test_refusal(void)
{
    LEASES(leases, 10);
    struct lease refusal = {.reason = REASON_no_proxy, .message = "none works"};
    TRY(leases_put(leases, KEY("t"), &refusal, 500));
    const struct lease *lease = leases_get(leases, KEY("t"));
    REQUIRE(lease != NULL);
    CHECK_INT(lease->reason, REASON_no_proxy);
    CHECK_STRING(lease->message, "none works");
    CHECK(lease->upstream.host == NULL);
}

static void
test_bounds(void)
{
    LEASES(leases, 2);
    TRY(put(leases, KEY("1"), 1, 500));
    TRY(put(leases, KEY("2"), 2, INT64_MAX));
    TRY(put(leases, KEY("3"), 3, 500));
    CHECK_INT(port_of(leases, KEY("1")), 0);
    CHECK_INT(port_of(leases, KEY("2")), 2);
    CHECK_INT(port_of(leases, KEY("3")), 3);
    clock_set_ms(1000 + LEASE_MAX_MS - 1);
    CHECK_INT(port_of(leases, KEY("2")), 2);
    clock_set_ms(1000 + LEASE_MAX_MS);
    CHECK_INT(port_of(leases, KEY("2")), 0);
}

static void
test_none_are_kept_where_none_may(void)
{
    LEASES(leases, 0);
    TRY(put(leases, KEY("1"), 1, 500));
    CHECK_INT(port_of(leases, KEY("1")), 0);
}

static void
test_asking_once(void)
{
    struct link first, second;
    struct list waiting;
    link_init(&first);
    link_init(&second);
    list_init(&waiting);
    LEASES(leases, 10);
    struct list *where;
    TRY(leases_ask(leases, KEY("t"), &where));
    CHECK(where == NULL);
    TRY(leases_ask(leases, KEY("t"), &where));
    REQUIRE(where != NULL);
    list_push_back(where, &first);
    TRY(leases_ask(leases, KEY("t"), &where));
    list_push_back(where, &second);
    enum err err = leases_ask(leases, KEY("other"), &where);
    CHECK(err || where == NULL);
    link_remove(&first); /* it has lost interest */
    leases_answered(leases, KEY("t"), &waiting);
    CHECK(list_take_front(&waiting) == &second);
    CHECK(list_take_front(&waiting) == NULL);
    leases_answered(leases, KEY("t"), &waiting); /* nobody has asked */
    TRY(err);
    TRY(leases_ask(leases, KEY("t"), &where));
    CHECK(where == NULL);
}

/* A lease that ends while it is being renewed must not take those who wait with it. */
static void
test_lease_ends_while_asked(void)
{
    struct link link;
    struct list waiting;
    link_init(&link);
    list_init(&waiting);
    LEASES(leases, 1);
    struct list *where;
    TRY(put(leases, KEY("t"), 1, 500));
    TRY(leases_ask(leases, KEY("t"), &where));
    TRY(leases_ask(leases, KEY("t"), &where));
    REQUIRE(where != NULL);
    list_push_back(where, &link);
    clock_set_ms(2000);
    CHECK_INT(port_of(leases, KEY("t")), 0);
    enum err err = put(leases, KEY("other"), 2, 500);
    leases_answered(leases, KEY("t"), &waiting);
    CHECK(list_take_front(&waiting) == &link);
    TRY(err);
}

static void
test_keys(void)
{
    static const struct {
        const char *token, *url, *key;
    } cases[] = {
        {"t", "http://a.test/x?y=http://b.test/", "http://a.test t"},
        {"t", "https://a.test:8443/", "https://a.test:8443 t"},
        {"", "http://[::1]/", "http://[::1] "},
        {"t", "http://a.test", "http://a.test t"},
        {"t", "nothing", "nothing t"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP(buf_fini) struct buf key;
        buf_init(&key, 1000);
        TRY(leases_append_key(&key, (struct slice){cases[i].token, strlen(cases[i].token)},
                              (struct slice){cases[i].url, strlen(cases[i].url)}));
        CHECK_STRING(buf_string(&key), cases[i].key);
    }
}

TESTS(TEST(life), TEST(put_again_and_drop), TEST(refusal), TEST(bounds),
      TEST(none_are_kept_where_none_may), TEST(asking_once), TEST(lease_ends_while_asked),
      TEST(keys))
