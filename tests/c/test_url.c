#include "url.h"

#include "harness.h"

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

static enum err
build(const char *scheme, const char *host, int port, const char *path, struct url *out)
{
    struct url_parts parts = {text(scheme), text(host), port, text(path)};
    return url_build(&parts, out);
}

/* With buf_init for both, so that CLEANUP(url_fini) is safe from the start. */
static struct url
empty_url(void)
{
    return (struct url){.host_is_ip = false};
}

struct host_case {
    const char *host;
    const char *wanted; /* NULL: refused */
    bool is_ip;
};

static void
check_hosts(const struct host_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CLEANUP(buf_fini) struct buf out;
        bool is_ip = !cases[i].is_ip;
        buf_init(&out, URL_HOST_MAX);
        enum err err = url_canonical_host(text(cases[i].host), &out, &is_ip);
        if (cases[i].wanted == NULL) {
            CHECK(err == ERR_INVALID);
            CHECK_STRING(buf_string(&out), "");
            CHECK(is_ip != cases[i].is_ip);
            continue;
        }
        TRY(err);
        CHECK_STRING(buf_string(&out), cases[i].wanted);
        CHECK_INT(is_ip, cases[i].is_ip);
    }
}

static void
test_host_names(void)
{
    static const struct host_case cases[] = {
        {"evil.test", "evil.test", false},
        {"EVIL.Test", "evil.test", false},
        {"evil.test.", "evil.test", false},
        {"a.b.evil.test", "a.b.evil.test", false},
        {"_x.evil.test", "_x.evil.test", false},
        {"r3---sn-x.evil.test", "r3---sn-x.evil.test", false},
        {"XN--EVL-3IA.test", "xn--evl-3ia.test", false},
        {"localhost", "localhost", false},
        {"1.2.3.4.evil.test", "1.2.3.4.evil.test", false},
        {"0x7f.example.com", "0x7f.example.com", false},
        {"123.com1", "123.com1", false},
        {"0xfg", "0xfg", false},
        {"", NULL, false},
        {".", NULL, false},
        {"evil.test..", NULL, false},
        {".evil.test", NULL, false},
        {"a..b", NULL, false},
        {"user@evil.test", NULL, false},
        {"evil%2Etest", NULL, false},
        {"evil test", NULL, false},
        {"evil.test\t", NULL, false},
        {"evil.test\r\n", NULL, false},
        {"evil.test\x7f", NULL, false},
        {"evil\xe3\x80\x82test", NULL, false},
        {"evil.test#", NULL, false},
        {"good.test\\.evil.test", NULL, false},
        {"good.test/evil", NULL, false},
        {"good.test,evil.test", NULL, false},
        {"*.evil.test", NULL, false},
    };
    check_hosts(cases, COUNT_OF(cases));
}

static void
test_host_lengths(void)
{
    char label63[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    char label64[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    char name253[260], name254[260], name253_dot[262];
    snprintf(name253, sizeof name253, "%s.%s.%s.%.61s", label63, label63, label63, label63);
    snprintf(name254, sizeof name254, "%s.%s.%s.%.62s", label63, label63, label63, label63);
    snprintf(name253_dot, sizeof name253_dot, "%s.", name253);
    REQUIRE(strlen(name253) == 253 && strlen(name254) == 254);
    const struct host_case cases[] = {
        {label63, label63, false}, {label64, NULL, false},        {name253, name253, false},
        {name254, NULL, false},    {name253_dot, name253, false},
    };
    check_hosts(cases, COUNT_OF(cases));
}

static void
test_ipv4_in_any_spelling(void)
{
    static const struct host_case cases[] = {
        {"127.0.0.1", "127.0.0.1", true},
        {"2130706433", "127.0.0.1", true},
        {"0177.0.0.1", "127.0.0.1", true},
        {"0x7f.1", "127.0.0.1", true},
        {"0x7f000001", "127.0.0.1", true},
        {"0X7F000001", "127.0.0.1", true},
        {"127.1", "127.0.0.1", true},
        {"127.0.1", "127.0.0.1", true},
        {"127.0.0.1.", "127.0.0.1", true},
        {"0", "0.0.0.0", true},
        {"00000000000000000000000177.1", "127.0.0.1", true},
        {"4294967295", "255.255.255.255", true},
        {"1.16777215", "1.255.255.255", true},
        {"1.2.65535", "1.2.255.255", true},
        {"256.1.1.1", NULL, true},
        {"4294967296", NULL, true},
        {"1.16777216", NULL, true},
        {"1.2.65536", NULL, true},
        {"1.2.3.256", NULL, true},
        {"1.2.3.4.5", NULL, true},
        {"1.2.3.0x", NULL, true},
        {"1.2.3.08", NULL, true},
        {"0x100000000", NULL, true},
        {"99999999999999999999999999999", NULL, true},
        {"1..2", NULL, true},
        {"1.2.3.4..", NULL, true},
        {"evil.1", NULL, true},
        {"evil.0x1f", NULL, true},
    };
    check_hosts(cases, COUNT_OF(cases));
}

static void
test_ipv6(void)
{
    static const struct host_case cases[] = {
        {"::1", "::1", true},
        {"::", "::", true},
        {"0000:0000:0000:0000:0000:0000:0000:0001", "::1", true},
        {"2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1", true},
        {"2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1", true},
        {"::ffff:127.0.0.1", "127.0.0.1", true},
        {"::FFFF:7f00:1", "127.0.0.1", true},
        {"::127.0.0.1", "127.0.0.1", true},
        {"0:0:0:0:0:ffff:7f00:1", "127.0.0.1", true},
        {"64:ff9b::7f00:1", "64:ff9b::7f00:1", true},
        {"fe80::1%eth0", NULL, true},
        {"fe80::1%25eth0", NULL, true},
        {"[::1]", NULL, true},
        {"[::1", NULL, true},
        {":::", NULL, true},
        {"1:2:3:4:5:6:7", NULL, true},
        {"1:2:3:4:5:6:7:8:9", NULL, true},
        {"::1.", NULL, true},
        {"::12345", NULL, true},
        {"evil.test:80", NULL, true},
        {":", NULL, true},
        {"0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000", NULL, true},
    };
    check_hosts(cases, COUNT_OF(cases));
}

static void
test_host_with_a_nul(void)
{
    CLEANUP(buf_fini) struct buf out;
    bool is_ip;
    buf_init(&out, URL_HOST_MAX);
    CHECK(url_canonical_host(SLICE_LITERAL("evil\0.test"), &out, &is_ip) == ERR_INVALID);
    CHECK(url_canonical_host(SLICE_LITERAL("::1\0"), &out, &is_ip) == ERR_INVALID);
    CHECK(url_canonical_host((struct slice){NULL, 0}, &out, &is_ip) == ERR_INVALID);
}

static void
test_authorities(void)
{
    static const struct {
        const char *text;
        const char *host; /* NULL: refused */
        int port;
    } cases[] = {
        {"evil.test", "evil.test", -1},
        {"evil.test:80", "evil.test", 80},
        {"evil.test:", "evil.test", -1},
        {"evil.test:65535", "evil.test", 65535},
        {"[::1]", "::1", -1},
        {"[::1]:443", "::1", 443},
        {"[::1]:", "::1", -1},
        {"", NULL, 0},
        {":80", NULL, 0},
        {"evil.test:0", NULL, 0},
        {"evil.test:0443", NULL, 0},
        {"evil.test:+443", NULL, 0},
        {"evil.test: 443", NULL, 0},
        {"evil.test:65536", NULL, 0},
        {"evil.test:99999999999999999999", NULL, 0},
        {"evil.test:443x", NULL, 0},
        {"evil.test:80:80", NULL, 0},
        {"::1", NULL, 0},
        {"u:p@evil.test", NULL, 0},
        {"[::1", NULL, 0},
        {"[", NULL, 0},
        {"[]", NULL, 0},
        {"[::1]x", NULL, 0},
        {"[evil.test]", NULL, 0},
        {"[127.0.0.1]", NULL, 0},
        {"[127.0.0.1]:80", NULL, 0},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct slice host = SLICE_LITERAL("untouched");
        int port = -2;
        enum err err = url_split_authority(text(cases[i].text), &host, &port);
        if (cases[i].host == NULL) {
            CHECK(err == ERR_INVALID);
            CHECK(port == -2 && host.len == strlen("untouched"));
            continue;
        }
        TRY(err);
        CHECK_INT(host.len, strlen(cases[i].host));
        CHECK(memcmp(host.data, cases[i].host, host.len) == 0);
        CHECK_INT(port, cases[i].port);
    }
}

/* Brackets inside brackets pass the split and end at the host. */
static void
test_nested_brackets(void)
{
    CLEANUP(buf_fini) struct buf out;
    struct slice host;
    int port;
    bool is_ip;
    buf_init(&out, URL_HOST_MAX);
    CHECK(url_split_authority(text("[[::1]]"), &host, &port) == ERR_INVALID);
    TRY(url_split_authority(text("[[::1]"), &host, &port));
    CHECK(url_canonical_host(host, &out, &is_ip) == ERR_INVALID);
}

static void
test_origins(void)
{
    static const struct {
        const char *scheme, *host;
        int port;
        const char *raw, *canonical; /* NULL: refused */
    } cases[] = {
        {"http", "evil.test", 80, "http://evil.test/", "http://evil.test/"},
        {"https", "evil.test", 443, "https://evil.test/", "https://evil.test/"},
        {"http", "evil.test", 443, "http://evil.test:443/", "http://evil.test:443/"},
        {"https", "evil.test", 80, "https://evil.test:80/", "https://evil.test:80/"},
        {"http", "evil.test", 8443, "http://evil.test:8443/", "http://evil.test:8443/"},
        {"HTTP", "EVIL.TEST.", 80, "http://EVIL.TEST./", "http://evil.test/"},
        {"https", "0x7f.1", 443, "https://0x7f.1/", "https://127.0.0.1/"},
        {"https", "::ffff:7f00:1", 443, "https://[::ffff:7f00:1]/", "https://127.0.0.1/"},
        {"http", "0:0::1", 8080, "http://[0:0::1]:8080/", "http://[::1]:8080/"},
        {"ftp", "evil.test", 80, NULL, NULL},
        {"", "evil.test", 80, NULL, NULL},
        {"httpx", "evil.test", 80, NULL, NULL},
        {"htt", "evil.test", 80, NULL, NULL},
        {"http", "evil.test", 0, NULL, NULL},
        {"http", "evil.test", 65536, NULL, NULL},
        {"http", "evil.test", -1, NULL, NULL},
        {"http", "", 80, NULL, NULL},
        {"http", "user@evil.test", 80, NULL, NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP(url_fini) struct url url = empty_url();
        enum err err = build(cases[i].scheme, cases[i].host, cases[i].port, "/", &url);
        if (cases[i].raw == NULL) {
            CHECK(err == ERR_INVALID);
            continue;
        }
        TRY(err);
        CHECK_STRING(buf_string(&url.raw), cases[i].raw);
        CHECK_STRING(buf_string(&url.canonical), cases[i].canonical);
    }
}

static void
test_says_whether_the_host_is_an_ip(void)
{
    CLEANUP(url_fini) struct url name = empty_url();
    CLEANUP(url_fini) struct url ip = empty_url();
    TRY(build("http", "evil.test", 80, "/", &name));
    TRY(build("http", "127.1", 80, "/", &ip));
    CHECK(!name.host_is_ip);
    CHECK(ip.host_is_ip);
}

/* The path of the canonical form; the raw one must be what came in. */
static void
test_paths(void)
{
    static const struct {
        const char *path;
        const char *wanted; /* NULL: refused */
    } cases[] = {
        {"/", "/"},
        {"/admin", "/admin"},
        {"/Admin", "/Admin"},
        {"/%61dmin", "/admin"},
        {"/%2561dmin", "/admin"},
        {"/%252561dmin", "/%2561dmin"},
        {"/a/../admin", "/admin"},
        {"/a/%2e%2e/admin", "/admin"},
        {"/a/%252e%252E/admin", "/admin"},
        {"/./admin", "/admin"},
        {"/../../admin", "/admin"},
        {"/a/b/../../admin", "/admin"},
        {"/a/b/..", "/a/"},
        {"/a/b/.", "/a/b/"},
        {"/a/..", "/"},
        {"/..", "/"},
        {"/a/", "/a/"},
        {"//admin", "/admin"},
        {"/a//..//admin", "/admin"},
        {"/x%2f..%2fadmin", "/admin"},
        {"/x%5c..%5Cadmin", "/admin"},
        {"/x\\..\\admin", "/admin"},
        {"/x/..;/admin", "/admin"},
        {"/x/..;a=b/admin", "/admin"},
        {"/.;/admin", "/admin"},
        {"/admin;x=y", "/admin;x=y"},
        {"/...", "/..."},
        {"/.hidden", "/.hidden"},
        {"/..hidden", "/..hidden"},
        {"/a%3Fb", "/a%3Fb"},
        {"/a%23b", "/a%23b"},
        {"/100%25", "/100%25"},
        {"/100%25zz", "/100%25zz"},
        {"/a%20b", "/a%20b"},
        {"/a%0d%0ab", "/a%0D%0Ab"},
        {"/a%7fb", "/a%7Fb"},
        {"/caf%c3%a9", "/caf%C3%A9"},
        {"/%E9t%E9", "/%E9t%E9"},
        {"/%c0", "/%C0"},
        {"/a|b{c}\"d", "/a|b{c}\"d"},
        {"/a%7Cb", "/a|b"},
        {"/?q=/../x", "/?q=/../x"},
        {"/a/..?x", "/?x"},
        {"/a?", "/a?"},
        {"/a?b?c", "/a?b?c"},
        {"/a?q=%61%2f%2E%c3%a9", "/a?q=a%2F.%C3%A9"},
        {"/a?q=%2561", "/a?q=%2561"},
        {"/a?q=100%", "/a?q=100%"},
        {"/a?q=%zz&r=%4", "/a?q=%zz&r=%4"},
        {"/a?q=%00", "/a?q=%00"},
        {"/%c0%af", NULL},
        {"/%25c0%25af", NULL},
        {"/%c1%81", NULL},
        {"/%e0%80%af", NULL},
        {"/%f0%80%80%af", NULL},
        {"/\xc0\xaf", NULL},
        {"/%00", NULL},
        {"/a%2500b", NULL},
        {"/%", NULL},
        {"/%6", NULL},
        {"/%zz", NULL},
        {"/%6g?", NULL},
        {"/%u0061", NULL},
        {"/a#b", NULL},
        {"/a?b#c", NULL},
        {"/a b", NULL},
        {"/a\tb", NULL},
        {"/a\nb", NULL},
        {"/a\x7f", NULL},
        {"", NULL},
        {"admin", NULL},
        {"?q", NULL},
        {"**", NULL},
        {"http://evil.test/", NULL},
    };
    static const char origin[] = "http://evil.test";
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP(url_fini) struct url url = empty_url();
        enum err err = build("http", "evil.test", 80, cases[i].path, &url);
        if (cases[i].wanted == NULL) {
            CHECK(err == ERR_INVALID);
            continue;
        }
        TRY(err);
        CHECK(strncmp(buf_string(&url.canonical), origin, strlen(origin)) == 0);
        CHECK_STRING(buf_string(&url.canonical) + strlen(origin), cases[i].wanted);
        CHECK_STRING(buf_string(&url.raw) + strlen(origin), cases[i].path);
    }
}

static void
test_bytes_beyond_ascii_are_escaped_in_both_forms(void)
{
    CLEANUP(url_fini) struct url url = empty_url();
    TRY(build("https", "evil.test", 443, "/caf\xc3\xa9?q=\xff", &url));
    CHECK_STRING(buf_string(&url.raw), "https://evil.test/caf%C3%A9?q=%FF");
    CHECK_STRING(buf_string(&url.canonical), "https://evil.test/caf%C3%A9?q=%FF");
}

static void
test_asterisk(void)
{
    CLEANUP(url_fini) struct url url = empty_url();
    TRY(build("http", "Evil.test", 8080, "*", &url));
    CHECK_STRING(buf_string(&url.raw), "http://Evil.test:8080");
    CHECK_STRING(buf_string(&url.canonical), "http://evil.test:8080/");
}

static void
test_nul_in_the_path(void)
{
    CLEANUP(url_fini) struct url url = empty_url();
    struct url_parts parts = {text("http"), text("evil.test"), 80, SLICE_LITERAL("/a\0b")};
    CHECK(url_build(&parts, &url) == ERR_INVALID);
    parts.path = (struct slice){NULL, 0};
    CHECK(url_build(&parts, &url) == ERR_INVALID);
}

/* The longest that is taken, where every byte becomes three. */
static void
test_longest_path(void)
{
    static char path[URL_MAX + 2];
    CLEANUP(url_fini) struct url url = empty_url();
    memset(path, 0xff, URL_MAX + 1);
    path[0] = '/';
    CHECK(build("https", "evil.test", 443, path, &url) == ERR_LIMIT);
    path[URL_MAX] = '\0';
    TRY(build("https", "evil.test", 443, path, &url));
    CHECK_INT(url.raw.len, strlen("https://evil.test/") + 3 * (URL_MAX - 1));
    CHECK_INT(url.canonical.len, url.raw.len);
}

static void
test_loggable(void)
{
    static const char *const cases[][2] = {
        {"http://evil.test/a", "http://evil.test/a"},
        {"http://evil.test/a?key=secret", "http://evil.test/a?…"},
        {"http://evil.test?key=secret", "http://evil.test?…"},
        {"http://evil.test/a?", "http://evil.test/a?…"},
        {"http://u:secret@evil.test/a", "http://evil.test/a"},
        {"http://u:sec@ret@evil.test:80/@a", "http://evil.test:80/@a"},
        {"http://evil.test/a#secret", "http://evil.test/a?…"},
        {"u:secret@evil.test", "evil.test"},
        {"http://evil.test/a?url=http://u:secret@x/", "http://evil.test/a?…"},
        {"evil.test?url=http://x/secret", "evil.test?…"},
        {"h%20p://u:secret@evil.test/", "h%20p://evil.test/"},
        {"", ""},
        {"://", "://"},
        {"http:/", "http:/"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP(buf_fini) struct buf out;
        buf_init(&out, 100);
        TRY(url_append_loggable(text(cases[i][0]), &out));
        CHECK_STRING(buf_string(&out), cases[i][1]);
    }
}

TESTS(TEST(host_names), TEST(host_lengths), TEST(ipv4_in_any_spelling), TEST(ipv6),
      TEST(host_with_a_nul), TEST(authorities), TEST(nested_brackets), TEST(origins),
      TEST(says_whether_the_host_is_an_ip), TEST(paths),
      TEST(bytes_beyond_ascii_are_escaped_in_both_forms), TEST(asterisk), TEST(nul_in_the_path),
      TEST(longest_path), TEST(loggable))
