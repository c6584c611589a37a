#include "upstream.h"

#include "harness.h"

/* Reads a /proxy answer and checks it; what one test needs of both modules. */
static enum err
read_upstream(const char *body, struct upstream *out, char message[UPSTREAM_MESSAGE_SIZE])
{
    struct wire_proxy proxy;
    enum err err = wire_parse_proxy((struct slice){body, strlen(body)}, &proxy, message);
    if (!err) {
        err = upstream_from_proxy(&proxy, out, message);
        wire_proxy_fini(&proxy);
    }
    return err;
}

#define UPSTREAM(name) CLEANUP(upstream_fini) struct upstream name = {.host = NULL}

static void
test_proxy_of_the_contract(void)
{
    UPSTREAM(upstream);
    char message[UPSTREAM_MESSAGE_SIZE] = "untouched";
    TRY(read_upstream(
        "{\"id\": 42, \"ip\": \"1.2.3.4\", \"port\": 8080, \"address\": \"1.2.3.4:8080\","
        " \"protocol\": \"http\", \"is_working\": true}",
        &upstream, message));
    CHECK_INT(upstream.kind, UPSTREAM_HTTP);
    CHECK_STRING(upstream.host, "1.2.3.4");
    CHECK_INT(upstream.port, 8080);
    CHECK(upstream.username == NULL && upstream.password == NULL);
    CHECK_INT(upstream.id.integer, 42);
    CHECK_STRING(message, "untouched");
}

static void
test_takes_the_id(void)
{
    UPSTREAM(upstream);
    CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = -1};
    char message[UPSTREAM_MESSAGE_SIZE];
    TRY(wire_parse_proxy(SLICE_LITERAL("{\"id\": \"p-1\", \"ip\": \"::1\", \"port\": 1}"), &proxy,
                         message));
    const char *id = proxy.id.string;
    TRY(upstream_from_proxy(&proxy, &upstream, message));
    CHECK(upstream.id.string == id);
    CHECK_INT(proxy.id.kind, WIRE_ID_NONE);
}

static void
test_places(void)
{
    static const struct {
        const char *body, *host;
        int port;
    } cases[] = {
        {"{\"address\": \"proxy.example.com:3128\"}", "proxy.example.com", 3128},
        {"{\"address\": \"Proxy_1.Example.com.:3128\"}", "proxy_1.example.com", 3128},
        {"{\"address\": \"[2001:db8::1]:3128\"}", "2001:db8::1", 3128},
        {"{\"ip\": \"2001:db8::1\", \"port\": 65535}", "2001:db8::1", 65535},
        {"{\"ip\": \"proxy.example.com\", \"port\": 1}", "proxy.example.com", 1},
        {"{\"ip\": \"1.2.3.4\", \"port\": 80, \"address\": \"5.6.7.8:90\"}", "1.2.3.4", 80},
        {"{\"ip\": \"1.2.3.4\", \"port\": 80, \"address\": \"not:an:address\"}", "1.2.3.4", 80},
        {"{\"ip\": \"1.2.3.4\", \"address\": \"5.6.7.8:90\"}", "1.2.3.4", 90},
        {"{\"port\": 80, \"address\": \"5.6.7.8:90\"}", "5.6.7.8", 80},
        {"{\"port\": 80, \"address\": \"5.6.7.8\"}", "5.6.7.8", 80},
        {"{\"ip\": \"127.0.0.1\", \"port\": 80}", "127.0.0.1", 80},
        {"{\"ip\": \"localhost\", \"port\": 80}", "localhost", 80},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        UPSTREAM(upstream);
        char message[UPSTREAM_MESSAGE_SIZE] = "";
        TRY(read_upstream(cases[i].body, &upstream, message));
        CHECK_STRING(upstream.host, cases[i].host);
        CHECK_INT(upstream.port, cases[i].port);
        CHECK_INT(upstream.id.kind, WIRE_ID_NONE);
    }
}

#define PLACE "\"ip\": \"1.2.3.4\", \"port\": 80"

static void
test_protocols(void)
{
    static const struct {
        const char *body;
        enum upstream_kind kind;
    } cases[] = {
        {"{" PLACE "}", UPSTREAM_HTTP},
        {"{" PLACE ", \"protocol\": null}", UPSTREAM_HTTP},
        {"{" PLACE ", \"protocol\": \"http\"}", UPSTREAM_HTTP},
        {"{" PLACE ", \"protocol\": \"HTTP\"}", UPSTREAM_HTTP},
        {"{" PLACE ", \"protocol\": \"https\"}", UPSTREAM_HTTPS},
        {"{" PLACE ", \"protocol\": \"HttpS\"}", UPSTREAM_HTTPS},
        {"{" PLACE ", \"protocol\": \"socks4\"}", UPSTREAM_SOCKS4},
        {"{" PLACE ", \"protocol\": \"SOCKS4a\"}", UPSTREAM_SOCKS4A},
        {"{" PLACE ", \"protocol\": \"socks5\"}", UPSTREAM_SOCKS5},
        {"{" PLACE ", \"protocol\": \"socks5h\"}", UPSTREAM_SOCKS5H},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        UPSTREAM(upstream);
        char message[UPSTREAM_MESSAGE_SIZE] = "";
        TRY(read_upstream(cases[i].body, &upstream, message));
        CHECK_INT(upstream.kind, cases[i].kind);
    }
    CHECK_STRING(upstream_kind_name(UPSTREAM_HTTP), "http");
    CHECK_STRING(upstream_kind_name(UPSTREAM_HTTPS), "https");
    CHECK_STRING(upstream_kind_name(UPSTREAM_SOCKS5H), "socks5h");
}

static void
test_credentials(void)
{
    static const struct {
        const char *body, *username, *password;
    } cases[] = {
        {"{" PLACE ", \"username\": \"me\", \"password\": \"s3:cret\"}", "me", "s3:cret"},
        {"{" PLACE ", \"username\": \"me\"}", "me", ""},
        {"{" PLACE ", \"username\": \"me\", \"password\": null}", "me", ""},
        {"{" PLACE ", \"username\": \"\", \"password\": \"key\"}", "", "key"},
        {"{" PLACE ", \"password\": \"key\"}", "", "key"},
        {"{" PLACE ", \"username\": \"caf\xc3\xa9\", \"password\": \" \"}", "caf\xc3\xa9", " "},
        {"{" PLACE ", \"username\": \"\", \"password\": \"\"}", NULL, NULL},
        {"{" PLACE ", \"username\": null, \"password\": null}", NULL, NULL},
        {"{" PLACE ", \"protocol\": \"socks5\", \"username\": \"a:b\", \"password\": \"c\"}", "a:b",
         "c"},
        {"{" PLACE ", \"protocol\": \"socks4\", \"username\": \"a:b\"}", "a:b", ""},
        {"{" PLACE ", \"protocol\": \"socks5h\", \"username\": \"\"}", NULL, NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        UPSTREAM(upstream);
        char message[UPSTREAM_MESSAGE_SIZE] = "";
        TRY(read_upstream(cases[i].body, &upstream, message));
        if (cases[i].username == NULL) {
            CHECK(upstream.username == NULL && upstream.password == NULL);
            continue;
        }
        CHECK_STRING(upstream.username, cases[i].username);
        CHECK_STRING(upstream.password, cases[i].password);
    }
}

#define NO_HOST "ip holds no host name or IP address"
#define NO_NAME "address holds no host name or IP address"
#define NO_ADDRESS "address must be host:port or [IPv6]:port"
#define BAD_PROTOCOL "protocol must be http, https, socks4, socks4a, socks5 or socks5h"
#define BAD_SOCKS4_USERNAME                                                                        \
    "username of a SOCKS proxy must be at most 255 bytes without control characters"
#define BAD_SOCKS5_USERNAME                                                                        \
    "username of a SOCKS proxy must be 1 to 255 bytes without control characters"
#define BAD_SOCKS5_PASSWORD                                                                        \
    "password of a SOCKS proxy must be at most 255 bytes without control characters"
#define SOCKS4 "{" PLACE ", \"protocol\": \"socks4a\""
#define SOCKS5 "{" PLACE ", \"protocol\": \"socks5\""
#define BAD_PORT "port must be an integer from 1 to 65535"
#define BAD_USERNAME "username must be at most 2048 bytes without ':' and control characters"
#define BAD_PASSWORD "password must be at most 2048 bytes without control characters"

static void
test_refused(void)
{
    static const char *const cases[][2] = {
        {"{}", "ip and address are both missing"},
        {"{\"port\": 80}", "ip and address are both missing"},
        {"{\"ip\": \"1.2.3.4\"}", "port is missing"},
        {"{\"address\": \"1.2.3.4\"}", "port is missing"},
        {"{\"address\": \"1.2.3.4:\"}", "port is missing"},
        {"{\"ip\": \"1.2.3.4\", \"port\": 0}", BAD_PORT},
        {"{\"ip\": \"1.2.3.4\", \"port\": 65536}", BAD_PORT},
        {"{\"ip\": \"1.2.3.4\", \"port\": 4294967376}", BAD_PORT},
        {"{\"ip\": \"\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"\", \"port\": 80, \"address\": \"1.2.3.4:80\"}", NO_HOST},
        {"{\"ip\": \"direct\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"DIRECT\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"direct.\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"a..b\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"a b\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"a\\r\\nX-Evil: 1\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"me@a\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"http://a\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"a:80\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"256.1.1.1\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"[::1]\", \"port\": 80}", NO_HOST},
        {"{\"ip\": \"caf\xc3\xa9.test\", \"port\": 80}", NO_HOST},
        {"{\"address\": \"me@a:80\"}", NO_NAME},
        {"{\"address\": \"direct:80\"}", NO_NAME},
        {"{\"address\": \"me:pw@a:80\"}", NO_ADDRESS},
        {"{\"address\": \"http://a:80\"}", NO_ADDRESS},
        {"{\"address\": \"\"}", NO_ADDRESS},
        {"{\"address\": \":80\"}", NO_ADDRESS},
        {"{\"address\": \"a:80x\"}", NO_ADDRESS},
        {"{\"address\": \"a:080\"}", NO_ADDRESS},
        {"{\"address\": \"a:0\"}", NO_ADDRESS},
        {"{\"address\": \"::1\"}", NO_ADDRESS},
        {"{\"address\": \"[a]:80\"}", NO_ADDRESS},
        {"{" PLACE ", \"protocol\": \"direct\"}", BAD_PROTOCOL},
        {"{" PLACE ", \"protocol\": \"\"}", BAD_PROTOCOL},
        {"{" PLACE ", \"protocol\": \"http \"}", BAD_PROTOCOL},
        {"{" PLACE ", \"protocol\": \"socks\"}", BAD_PROTOCOL},
        {"{" PLACE ", \"protocol\": \"socks5hh\"}", BAD_PROTOCOL},
        {"{" PLACE ", \"protocol\": \"a\\nb\"}", BAD_PROTOCOL},
        {SOCKS4 ", \"username\": \"me\", \"password\": \"p\"}", "SOCKS4 knows no password"},
        {SOCKS4 ", \"username\": \"a\\nb\"}", BAD_SOCKS4_USERNAME},
        {SOCKS5 ", \"password\": \"p\"}", BAD_SOCKS5_USERNAME},
        {SOCKS5 ", \"username\": \"a\\nb\"}", BAD_SOCKS5_USERNAME},
        {SOCKS5 ", \"username\": \"a\", \"password\": \"b\\n\"}", BAD_SOCKS5_PASSWORD},
        {"{" PLACE ", \"username\": \"a:b\", \"password\": \"c\"}", BAD_USERNAME},
        {"{" PLACE ", \"username\": \"a\\n\", \"password\": \"c\"}", BAD_USERNAME},
        {"{" PLACE ", \"username\": \"a\", \"password\": \"c\\r\\nX: 1\"}", BAD_PASSWORD},
        {"{" PLACE ", \"username\": \"a\", \"password\": \"\\u007f\"}", BAD_PASSWORD},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct upstream upstream = {.port = 7};
        char message[UPSTREAM_MESSAGE_SIZE] = "";
        CHECK(read_upstream(cases[i][0], &upstream, message) == ERR_INVALID);
        CHECK_STRING(message, cases[i][1]);
        CHECK(upstream.port == 7);
    }
}

static void
test_longest_credentials(void)
{
    for (int len = 2048; len <= 2049; len++) {
        UPSTREAM(upstream);
        char body[5000], message[UPSTREAM_MESSAGE_SIZE] = "";
        snprintf(body, sizeof body, "{" PLACE ", \"username\": \"%0*d\", \"password\": \"%0*d\"}",
                 2048, 1, len, 1);
        enum err err = read_upstream(body, &upstream, message);
        if (len == 2049) {
            CHECK(err == ERR_INVALID);
            continue;
        }
        TRY(err);
    }
}

static void
test_longest_socks_credentials(void)
{
    for (int len = 255; len <= 256; len++) {
        for (int which = 0; which < 2; which++) {
            UPSTREAM(upstream);
            char body[1000], message[UPSTREAM_MESSAGE_SIZE] = "";
            snprintf(body, sizeof body,
                     "{" PLACE ", \"protocol\": \"socks5\", \"username\": \"%0*d\","
                     " \"password\": \"%0*d\"}",
                     which == 0 ? len : 1, 1, which == 1 ? len : 1, 1);
            enum err err = read_upstream(body, &upstream, message);
            CHECK_INT(err == ERR_OK, len == 255);
        }
    }
}

static void
test_name_of_a_tls_proxy(void)
{
    static const char *const cases[][2] = {
        {"\"protocol\": \"https\", \"address\": \"Proxy.test:443\"", "proxy.test"},
        {"\"protocol\": \"https\", \"address\": \"proxy.test\"", "proxy.test"},
        {"\"protocol\": \"https\", \"address\": \"1.2.3.4:443\"", NULL},
        {"\"protocol\": \"https\", \"address\": \"not:an:address\"", NULL},
        {"\"protocol\": \"https\", \"address\": \"a..b:443\"", NULL},
        {"\"protocol\": \"https\"", NULL},
        {"\"protocol\": \"http\", \"address\": \"proxy.test:443\"", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        UPSTREAM(upstream);
        char body[200], message[UPSTREAM_MESSAGE_SIZE] = "";
        snprintf(body, sizeof body, "{" PLACE ", %s}", cases[i][0]);
        TRY(read_upstream(body, &upstream, message));
        CHECK_STRING(upstream.host, "1.2.3.4");
        if (cases[i][1] == NULL) {
            CHECK(upstream.tls_name == NULL);
            continue;
        }
        CHECK_STRING(upstream.tls_name, cases[i][1]);
    }
}

static void
test_refusal_leaves_the_id(void)
{
    CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = -1};
    struct upstream upstream;
    char message[UPSTREAM_MESSAGE_SIZE];
    TRY(wire_parse_proxy(SLICE_LITERAL("{\"id\": 42}"), &proxy, message));
    CHECK(upstream_from_proxy(&proxy, &upstream, message) == ERR_INVALID);
    CHECK_INT(proxy.id.integer, 42);
}

static void
test_equal(void)
{
    static const char *const bodies[] = {
        "{\"id\": 1, \"ip\": \"a.test\", \"port\": 80}",
        "{\"id\": 1, \"ip\": \"b.test\", \"port\": 80}",
        "{\"id\": 1, \"ip\": \"a.test\", \"port\": 81}",
        "{\"id\": 1, \"ip\": \"a.test\", \"port\": 80, \"protocol\": \"https\"}",
        "{\"ip\": \"a.test\", \"port\": 80, \"protocol\": \"https\", \"address\": \"b.test\"}",
        "{\"id\": 1, \"ip\": \"a.test\", \"port\": 80, \"protocol\": \"socks5\"}",
        "{\"id\": 1, \"ip\": \"a.test\", \"port\": 80, \"username\": \"me\"}",
        "{\"id\": 1, \"ip\": \"a.test\", \"port\": 80, \"username\": \"me\", \"password\": \"p\"}",
        "{\"id\": 1, \"ip\": \"a.test\", \"port\": 80, \"username\": \"you\", \"password\": \"p\"}",
    };
    for (size_t i = 0; i < COUNT_OF(bodies); i++) {
        for (size_t j = 0; j < COUNT_OF(bodies); j++) {
            UPSTREAM(a);
            UPSTREAM(b);
            char message[UPSTREAM_MESSAGE_SIZE] = "";
            TRY(read_upstream(bodies[i], &a, message));
            TRY(read_upstream(bodies[j], &b, message));
            CHECK_INT(upstream_equal(&a, &b), i == j);
        }
    }
}

static void
test_equal_in_other_spelling_and_with_another_id(void)
{
    UPSTREAM(a);
    UPSTREAM(b);
    char message[UPSTREAM_MESSAGE_SIZE] = "";
    TRY(read_upstream("{\"id\": 1, \"ip\": \"A.test.\", \"port\": 80, \"protocol\": \"HTTP\"}", &a,
                      message));
    TRY(read_upstream("{\"id\": 2, \"address\": \"a.test:80\"}", &b, message));
    CHECK(upstream_equal(&a, &b));
}

TESTS(TEST(proxy_of_the_contract), TEST(takes_the_id), TEST(places), TEST(protocols),
      TEST(credentials), TEST(refused), TEST(longest_credentials), TEST(longest_socks_credentials),
      TEST(name_of_a_tls_proxy), TEST(refusal_leaves_the_id),
      TEST(equal), TEST(equal_in_other_spelling_and_with_another_id))
