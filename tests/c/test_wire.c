#include "wire.h"

#include <math.h>

#include "harness.h"

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

static void
test_proxy_of_the_contract(void)
{
    char message[WIRE_MESSAGE_SIZE] = "untouched";
    CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = -1};
    TRY(wire_parse_proxy(text("{\"id\": 42, \"ip\": \"1.2.3.4\", \"port\": 8080,"
                              " \"address\": \"1.2.3.4:8080\", \"protocol\": \"http\","
                              " \"is_working\": true}"),
                         &proxy, message));
    CHECK_INT(proxy.id.kind, WIRE_ID_INTEGER);
    CHECK_INT(proxy.id.integer, 42);
    CHECK_INT(proxy.user_id.kind, WIRE_ID_NONE);
    CHECK_STRING(proxy.ip, "1.2.3.4");
    CHECK_STRING(proxy.address, "1.2.3.4:8080");
    CHECK_STRING(proxy.protocol, "http");
    CHECK(proxy.username == NULL && proxy.password == NULL);
    CHECK_INT(proxy.port, 8080);
    CHECK(proxy.is_working);
    CHECK_STRING(message, "untouched");
}

static void
test_proxy_with_everything(void)
{
    char message[WIRE_MESSAGE_SIZE];
    CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = -1};
    TRY(wire_parse_proxy(text("{\"id\": \"p-1\", \"user_id\": \"u\\u00e9\", \"username\": \"me\","
                              " \"password\": \"s3cret\", \"is_working\": false, \"port\": 0,"
                              " \"more\": [1, {\"a\": null}]}"),
                         &proxy, message));
    CHECK_STRING(proxy.id.string, "p-1");
    CHECK_STRING(proxy.user_id.string, "u\xc3\xa9");
    CHECK_STRING(proxy.username, "me");
    CHECK_STRING(proxy.password, "s3cret");
    CHECK_INT(proxy.port, 0);
    CHECK(!proxy.is_working);
}

static void
test_proxy_absent_and_null(void)
{
    static const char *const bodies[] = {
        "{}",
        "{\"id\": null, \"user_id\": null, \"ip\": null, \"port\": null, \"address\": null,"
        " \"protocol\": null, \"username\": null, \"password\": null}",
    };
    for (size_t i = 0; i < COUNT_OF(bodies); i++) {
        char message[WIRE_MESSAGE_SIZE];
        CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = 7};
        TRY(wire_parse_proxy(text(bodies[i]), &proxy, message));
        CHECK_INT(proxy.id.kind, WIRE_ID_NONE);
        CHECK_INT(proxy.user_id.kind, WIRE_ID_NONE);
        CHECK(proxy.ip == NULL && proxy.address == NULL && proxy.protocol == NULL);
        CHECK(proxy.username == NULL && proxy.password == NULL);
        CHECK_INT(proxy.port, -1);
        CHECK(proxy.is_working);
    }
}

static void
test_proxy_refused(void)
{
    static const struct {
        const char *body;
        const char *message; /* what it starts with */
    } cases[] = {
        {"", "not JSON"},
        {"null", "not JSON"},
        {"[]", "must be an object"},
        {"{", "not JSON"},
        {"{} x", "not JSON"},
        {"{\"id\": 1, \"id\": 2}", "a key occurs twice"},
        {"{\"more\": {\"a\": 1, \"a\": 2}}", "a key occurs twice"},
        {"{\"id\": 99999999999999999999}", "a number is too large"},
        {"{\"ip\": \"1\\u0000\"}", "a string holds U+0000"},
        {"{\"i\\u0000p\": \"1\"}", "a string holds U+0000"},
        {"{\"ip\": \"\xff\"}", "not UTF-8"},
        {"{\"id\": 1.5}", "id must be an integer or a string"},
        {"{\"id\": true}", "id must be an integer or a string"},
        {"{\"id\": \"\"}", "id must be an integer or a string"},
        {"{\"id\": \"a\\nb\"}", "id must be an integer or a string"},
        {"{\"id\": \"a\\u007f\"}", "id must be an integer or a string"},
        {"{\"user_id\": []}", "user_id must be an integer or a string"},
        {"{\"ip\": 1}", "ip must be a string"},
        {"{\"address\": {}}", "address must be a string"},
        {"{\"protocol\": false}", "protocol must be a string"},
        {"{\"username\": 7}", "username must be a string"},
        {"{\"ip\": \"1.2.3.4\", \"password\": 7}", "password must be a string"},
        {"{\"port\": \"8080\"}", "port must be an integer from 1 to 65535"},
        {"{\"port\": 8080.0}", "port must be an integer from 1 to 65535"},
        {"{\"port\": -1}", "port must be an integer from 1 to 65535"},
        {"{\"is_working\": 1}", "is_working must be true or false"},
        {"{\"is_working\": \"true\"}", "is_working must be true or false"},
        {"{\"is_working\": null}", "is_working must be true or false"},
        {"{\"ttl\": \"5\"}", "ttl must be a number of seconds"},
        {"{\"ttl\": -1}", "ttl must be a number of seconds"},
        {"{\"ttl\": true}", "ttl must be a number of seconds"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char message[WIRE_MESSAGE_SIZE] = "";
        struct wire_proxy proxy = {.port = 7};
        CHECK(wire_parse_proxy(text(cases[i].body), &proxy, message) == ERR_INVALID);
        CHECK_INT(proxy.port, 7);
        if (strncmp(message, cases[i].message, strlen(cases[i].message)) != 0) {
            CHECK_STRING(message, cases[i].message);
        }
        CHECK(strchr(message, '\n') == NULL);
    }
}

static void
test_proxy_message_quotes_no_secret(void)
{
    char message[WIRE_MESSAGE_SIZE] = "";
    struct wire_proxy proxy;
    CHECK(wire_parse_proxy(text("{\"password\": \"s3cret\" s3cret"), &proxy, message)
          == ERR_INVALID);
    CHECK(strstr(message, "s3cret") == NULL);
    CHECK(wire_parse_proxy(text("{\"s3cret\": 1, \"s3cret\": 1}"), &proxy, message) == ERR_INVALID);
    CHECK(strstr(message, "s3cret") == NULL);
}

static void
test_id_as_long_as_allowed(void)
{
    for (int len = 256; len <= 257; len++) {
        char body[400], message[WIRE_MESSAGE_SIZE];
        CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = -1};
        snprintf(body, sizeof body, "{\"id\": \"%0*d\"}", len, 1);
        enum err err = wire_parse_proxy(text(body), &proxy, message);
        if (len == 257) {
            CHECK(err == ERR_INVALID);
            continue;
        }
        TRY(err);
        CHECK_INT(strlen(proxy.id.string), 256);
    }
}

static void
test_depth(void)
{
    for (int depth = 31; depth <= 32; depth++) {
        char body[200] = "{\"a\": ", message[WIRE_MESSAGE_SIZE] = "";
        CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = -1};
        memset(body + strlen(body), '[', (size_t)depth);
        memset(body + strlen(body), ']', (size_t)depth);
        strcat(body, "}");
        enum err err = wire_parse_proxy(text(body), &proxy, message);
        if (depth == 32) {
            CHECK(err == ERR_INVALID);
            CHECK_STRING(message, "nested more than 32 levels deep");
            continue;
        }
        TRY(err);
    }
}

static void
test_brackets_in_strings_are_no_depth(void)
{
    char message[WIRE_MESSAGE_SIZE];
    CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = -1};
    TRY(wire_parse_proxy(text("{\"a\": \"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\\\","
                              " \"ip\": \"{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{\"}"),
                         &proxy, message));
    CHECK_INT(strlen(proxy.ip), 43);
}

static void
test_rules_of_the_contract(void)
{
    char message[WIRE_MESSAGE_SIZE];
    CLEANUP(wire_rules_fini) struct wire_rules rules = {NULL, 0};
    TRY(wire_parse_rules(
        text("[{\"id\": 1, \"pattern\": \"^.*facebook\\\\.com.*$\","
             " \"description\": \"Block\", \"created_by\": 1},"
             " {\"id\": \"x\", \"pattern\": \"\"}, {\"pattern\": \"caf\xc3\xa9\"}]"),
        &rules, message));
    CHECK_INT(rules.count, 3);
    CHECK_INT(rules.rules[0].id.integer, 1);
    CHECK_STRING(rules.rules[0].pattern, "^.*facebook\\.com.*$");
    CHECK_INT(rules.rules[0].pattern_len, 19);
    CHECK_STRING(rules.rules[1].id.string, "x");
    CHECK_INT(rules.rules[1].pattern_len, 0);
    CHECK_INT(rules.rules[2].id.kind, WIRE_ID_NONE);
    CHECK_STRING(rules.rules[2].pattern, "caf\xc3\xa9");
}

static void
test_no_rules(void)
{
    char message[WIRE_MESSAGE_SIZE];
    CLEANUP(wire_rules_fini) struct wire_rules rules = {NULL, 7};
    rules.count = 0;
    TRY(wire_parse_rules(text("[]"), &rules, message));
    CHECK_INT(rules.count, 0);
}

static void
test_rules_refused(void)
{
    static const char *const cases[][2] = {
        {"{}", "must be an array"},
        {"[1]", "rule 1 of 1: must be an object"},
        {"[{\"pattern\": \"a\"}, {\"id\": 1}]", "rule 2 of 2: pattern must be a string"},
        {"[{\"pattern\": null}]", "rule 1 of 1: pattern must be a string"},
        {"[{\"pattern\": 5}]", "rule 1 of 1: pattern must be a string"},
        {"[{\"id\": 1.5, \"pattern\": \"a\"}, 7]", "rule 1 of 2: id must be an integer or a string "
                                                   "of 1 to 256 bytes without control characters"},
        {"[{\"pattern\": \"a\\u0000b\"}]", "a string holds U+0000 (line 1, column 23)"},
        {"[{\"pattern\": \"a\"},]", "not JSON (line 1, column 19)"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char message[WIRE_MESSAGE_SIZE] = "";
        struct wire_rules rules = {NULL, 7};
        CHECK(wire_parse_rules(text(cases[i][0]), &rules, message) == ERR_INVALID);
        CHECK_STRING(message, cases[i][1]);
        CHECK(rules.count == 7);
    }
}

static void
test_id_copy_and_equal(void)
{
    struct wire_id none = {.kind = WIRE_ID_NONE}, seven = {.kind = WIRE_ID_INTEGER, .integer = 7},
                   eight = {.kind = WIRE_ID_INTEGER, .integer = 8};
    char name[] = "seven";
    struct wire_id string = {.kind = WIRE_ID_STRING, .string = name};
    CLEANUP(wire_id_fini) struct wire_id copy = {.kind = WIRE_ID_NONE};
    CLEANUP(wire_id_fini) struct wire_id number = {.kind = WIRE_ID_NONE};
    TRY(wire_id_copy(&seven, &number));
    TRY(wire_id_copy(&string, &copy));
    CHECK(copy.string != name);
    CHECK(wire_id_equal(&copy, &string));
    CHECK(wire_id_equal(&number, &seven));
    CHECK(wire_id_equal(&none, &none));
    CHECK(!wire_id_equal(&seven, &eight));
    CHECK(!wire_id_equal(&none, &seven));
    CHECK(!wire_id_equal(&string, &seven));
    name[0] = 'S';
    CHECK(!wire_id_equal(&copy, &string));
}

static void
test_activity_of_the_contract(void)
{
    CLEANUP(buf_fini) struct buf out;
    struct wire_id user = {.kind = WIRE_ID_INTEGER, .integer = 7},
                   proxy = {.kind = WIRE_ID_INTEGER, .integer = 42};
    struct wire_activity activity = {
        .user_id = &user,
        .proxy_id = &proxy,
        .url = "https://example.com/path",
        .method = "GET",
        .status_code = 200,
        .timestamp = 1690000000.0,
    };
    buf_init(&out, 1000);
    TRY(buf_append_string(&out, "before "));
    TRY(wire_build_activity(&activity, &out));
    CHECK_STRING(
        buf_string(&out),
        "before {\"user_id\":7,\"endpoint\":\"https://example.com/path\",\"method\":\"GET\","
        "\"status_code\":200,\"target_url\":\"https://example.com/path\",\"proxy_id\":42,"
        "\"timestamp\":1690000000.0}");
}

static void
test_activity_with_unknowns_and_strange_text(void)
{
    CLEANUP(buf_fini) struct buf out;
    char name[] = "u\"1\"";
    struct wire_id user = {.kind = WIRE_ID_STRING, .string = name}, none = {.kind = WIRE_ID_NONE};
    struct wire_activity activity = {
        .user_id = &user,
        .proxy_id = &none,
        .url = "a\"\\\n\x01\xc3\xa9",
        .method = "G\xff",
        .status_code = 499,
        .timestamp = 1690000000.123456,
    };
    buf_init(&out, 1000);
    TRY(wire_build_activity(&activity, &out));
    CHECK_STRING(buf_string(&out),
                 "{\"user_id\":\"u\\\"1\\\"\",\"endpoint\":\"a\\\"\\\\\\n\\u0001\xc3\xa9\","
                 "\"method\":\"G\xef\xbf\xbd\",\"status_code\":499,"
                 "\"target_url\":\"a\\\"\\\\\\n\\u0001\xc3\xa9\",\"proxy_id\":null,"
                 "\"timestamp\":1690000000.123456}");
    buf_clear(&out);
    activity.user_id = NULL;
    activity.timestamp = 1690000000.1; /* not ….0999999 */
    TRY(wire_build_activity(&activity, &out));
    CHECK(strncmp(buf_string(&out), "{\"user_id\":null,", 16) == 0);
    CHECK(strstr(buf_string(&out), "\"timestamp\":1690000000.1}") != NULL);
}

#define FFFD "\xef\xbf\xbd"

static void
test_activity_repairs_utf8(void)
{
    static const char *const cases[][2] = {
        {"a\x80z", "a" FFFD "z"}, /* a stray continuation */
        {"\xc3", FFFD},           /* cut off */
        {"\xe2\x82", FFFD FFFD},
        {"\xf0\x9f\x98\x80\xf0\x9f\x98", "\xf0\x9f\x98\x80" FFFD FFFD FFFD},
        {"\xc0\xaf", FFFD FFFD}, /* overlong */
        {"\xe0\x80\xaf", FFFD FFFD FFFD},
        {"\xf0\x80\x80\xaf", FFFD FFFD FFFD FFFD},
        {"\xed\xa0\x80", FFFD FFFD FFFD}, /* a surrogate */
        {"\xed\x9f\xbf\xff", "\xed\x9f\xbf" FFFD},
        {"\xf4\x8f\xbf\xbf\xff", "\xf4\x8f\xbf\xbf" FFFD},
        {"\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD}, /* beyond U+10FFFF */
        {"\xf5\x80\x80\x80", FFFD FFFD FFFD FFFD},
        {"\xc2\x80\xff", "\xc2\x80" FFFD},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP(buf_fini) struct buf out;
        char wanted[300];
        struct wire_activity activity = {.url = "", .method = cases[i][0]};
        buf_init(&out, 1000);
        snprintf(wanted, sizeof wanted,
                 "{\"user_id\":null,\"endpoint\":\"\",\"method\":\"%s\",\"status_code\":0,"
                 "\"target_url\":\"\",\"proxy_id\":null,\"timestamp\":0.0}",
                 cases[i][1]);
        TRY(wire_build_activity(&activity, &out));
        CHECK_STRING(buf_string(&out), wanted);
    }
}

static void
test_activity_refused(void)
{
    CLEANUP(buf_fini) struct buf out;
    struct wire_activity activity = {.url = "", .method = "GET", .timestamp = NAN};
    buf_init(&out, 20);
    CHECK(wire_build_activity(&activity, &out) == ERR_INVALID);
    activity.timestamp = INFINITY;
    CHECK(wire_build_activity(&activity, &out) == ERR_INVALID);
    activity.timestamp = 1;
    CHECK(wire_build_activity(&activity, &out) == ERR_LIMIT);
    CHECK_INT(out.len, 0);
}

static void
test_ttl(void)
{
    static const struct {
        const char *body;
        int64_t ms;
    } cases[] = {{"{}", -1},
                 {"{\"ttl\": null}", -1},
                 {"{\"ttl\": 0}", 0},
                 {"{\"ttl\": 1.5}", 1500},
                 {"{\"ttl\": 30}", 30000},
                 {"{\"ttl\": 1e300}", 86400000}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char message[WIRE_MESSAGE_SIZE] = "";
        CLEANUP(wire_proxy_fini) struct wire_proxy proxy = {.port = 7};
        TRY(wire_parse_proxy(text(cases[i].body), &proxy, message));
        CHECK_INT(proxy.ttl_ms, cases[i].ms);
    }
}

static void
test_claims(void)
{
    static const char object[] = "{\"user_id\": true, \"sub\": \"x12\", \"id\": 7, \"n\": -1,"
                                 " \"digits\": \"12\", \"zero\": \"0\", \"agent\": \"007\","
                                 " \"long\": \"1234567890123456789\","
                                 " \"empty\": \"\", \"exp\": 1.5}";
    static const struct {
        const char *names;
        const char *string; /* NULL: an integer */
        int64_t integer;
        enum err err;
    } cases[] = {
        {"user_id,sub,id", "x12", 0, ERR_OK}, {"id,sub", NULL, 7, ERR_OK},
        {" id , sub ", NULL, 7, ERR_OK},     {"empty,,n", NULL, -1, ERR_OK},
        {"user_id", NULL, 0, ERR_MISSING},   {"su", NULL, 0, ERR_MISSING},
        {"exp", NULL, 0, ERR_MISSING},       {"", NULL, 0, ERR_MISSING},
        {" ,", NULL, 0, ERR_MISSING},        {"digits", NULL, 12, ERR_OK},
        {"zero", NULL, 0, ERR_OK},           {"agent", "007", 0, ERR_OK},
        {"long", "1234567890123456789", 0, ERR_OK},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP(wire_id_fini) struct wire_id id = {.kind = WIRE_ID_NONE};
        enum err err = wire_parse_claim(text(object), cases[i].names, &id);
        if (cases[i].err) {
            CHECK(err == cases[i].err);
            CHECK_INT(id.kind, WIRE_ID_NONE);
            continue;
        }
        TRY(err);
        if (cases[i].string != NULL) {
            CHECK_INT(id.kind, WIRE_ID_STRING);
            CHECK_STRING(id.string, cases[i].string);
        }
        else {
            CHECK_INT(id.kind, WIRE_ID_INTEGER);
            CHECK_INT(id.integer, cases[i].integer);
        }
    }
}

static void
test_claims_of_no_object(void)
{
    struct wire_id id;
    CHECK(wire_parse_claim(text("[]"), "id", &id) == ERR_INVALID);
    CHECK(wire_parse_claim(text("\xff\xfe"), "id", &id) == ERR_INVALID);
    CHECK(wire_parse_claim((struct slice){NULL, 0}, "id", &id) == ERR_INVALID);
    CHECK(wire_parse_claim(text("{\"id\": 1, \"id\": 2}"), "id", &id) == ERR_INVALID);
}

static void
test_library_version(void)
{
    wire_init();
    CHECK(strncmp(wire_library_version(), "2.", 2) == 0);
}

TESTS(TEST(proxy_of_the_contract), TEST(proxy_with_everything), TEST(proxy_absent_and_null),
      TEST(proxy_refused), TEST(proxy_message_quotes_no_secret), TEST(id_as_long_as_allowed),
      TEST(depth), TEST(brackets_in_strings_are_no_depth), TEST(rules_of_the_contract),
      TEST(no_rules), TEST(rules_refused), TEST(id_copy_and_equal), TEST(activity_of_the_contract),
      TEST(activity_with_unknowns_and_strange_text), TEST(activity_repairs_utf8),
      TEST(activity_refused), TEST(ttl), TEST(claims), TEST(claims_of_no_object), TEST(library_version))
