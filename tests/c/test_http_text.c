#include "http_text.h"

#include "harness.h"

static void
test_value(void)
{
    static const char *const good[] = {"a", "Bearer a.b-c_d", "a b", "a\tb", "\"v1\"", "\xc3\xa4"};
    static const char *const bad[] = {"",     " ",    " a",      "a ",    "\ta",  "a\t",
                                      "a\rb", "a\nb", "a\r\n b", "a\x01", "\x1f", "a\x7f"};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        CHECK(http_text_is_value(good[i]));
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        CHECK(!http_text_is_value(bad[i]));
    }
}

static void
test_url(void)
{
    static const char *const good[] = {"http://a.test", "HTTPS://a.test/x?y=%20#z",
                                       "http://[::1]:80/"};
    static const char *const bad[] = {
        "",        "http:/a",   "http:",      "ftp://a",      "file:///a",    "//a",
        "a.test/", " http://a", "http://a b", "http://a\r\n", "http://a\x7f", "http://\xc3\xa4"};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        CHECK(http_text_is_url(good[i]));
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        CHECK(!http_text_is_url(bad[i]));
    }
}

static void
test_etag(void)
{
    static const char *const good[] = {"\"\"", "\"v1\"", "W/\"v1\"", "\"\xc3\xa4\"", "\"a\\\""};
    static const char *const bad[] = {
        "",         "\"",      "W/",      "W/\"",          "v1",       "\"v1", "v1\"", "\"a\" b",
        "\"a\"b\"", "\"a b\"", "w/\"a\"", "\"a\r\nX: y\"", "\"a\x7f\""};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        CHECK(http_text_is_etag(good[i]));
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        CHECK(!http_text_is_etag(bad[i]));
    }
}

static void
test_fresh(void)
{
    static const struct {
        const char *text;
        int64_t seconds;
    } cases[] = {
        {"", -1},
        {"private", -1},
        {"max-age=5", 5},
        {"Private , Max-Age=60 , must-revalidate", 60},
        {"max-age=\"7\"", 7},
        {"max-age=0", 0},
        {"no-store", 0},
        {"max-age=60, No-Store", 0},
        {"no-cache=\"x\", max-age=60", 0},
        {"max-age=60, max-age=5", 5},
        {"max-age", 0},
        {"max-age=", 0},
        {"max-age=-1", 0},
        {"max-age=1.5", 0},
        {"max-age=99999999999999999999", INT32_MAX},
        {"s-maxage=9", -1},
        {"x-max-age=9", -1},
        {",,", -1},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CHECK_INT(http_text_fresh_s(cases[i].text), cases[i].seconds);
    }
}

static void
test_clean(void)
{
    char text[] = "a\r\nb\x01\x7f\xc3\xa4";
    http_text_clean(text);
    CHECK_STRING(text, "a  b  \xc3\xa4");
}

static void
test_query_value(void)
{
    static const char wanted[] =
        "u=http%3A%2F%2Fa.test%2F~x-._%3Fq%3D1%26r%3D%C3%A4%20%25%2B%23%00";
    CLEANUP(buf_fini) struct buf out;
    buf_init(&out, sizeof wanted);
    TRY(buf_append_string(&out, "u="));
    struct slice url = SLICE_LITERAL("http://a.test/~x-._?q=1&r=\xc3\xa4 %+#\0");
    TRY(http_text_append_query_value(&out, url));
    CHECK_STRING(buf_string(&out), wanted);
    CHECK_INT(http_text_append_query_value(&out, SLICE_LITERAL("x&")), ERR_LIMIT);
    CHECK_STRING(buf_string(&out), wanted);
}

TESTS(TEST(value), TEST(url), TEST(etag), TEST(fresh), TEST(clean), TEST(query_value))
