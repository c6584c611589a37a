#include "network.h"

#include "harness.h"
#include "mem.h"

static void
test_contains(void)
{
    static const struct {
        const char *network, *address;
        bool inside;
    } cases[] = {
        {"10.0.0.0/8", "10.255.0.1", true},
        {"10.0.0.0/8", "11.0.0.1", false},
        {"172.16.0.0/12", "172.31.255.255", true},
        {"172.16.0.0/12", "172.32.0.0", false},
        {"1.2.3.4/32", "1.2.3.4", true},
        {"1.2.3.4/32", "1.2.3.5", false},
        {"1.2.3.4/31", "1.2.3.5", true},
        {"0.0.0.0/0", "255.1.2.3", true},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/0", "2001:db8::1", true},
        {"fe80::/10", "febf::1", true},
        {"fe80::/10", "fec0::1", false},
        {"::1/128", "::1", true},
        {"::1/128", "::2", false},
        {"10.0.0.0/8", "::ffff:10.1.2.3", true},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct network network;
        struct address address;
        CHECK(network_parse(cases[i].network, &network));
        CHECK(address_parse(cases[i].address, &address));
        CHECK_INT(network_contains(&network, &address), cases[i].inside);
        CHECK_INT(networks_contain(&cases[i].network, 1, &address), cases[i].inside);
    }
}

static void
test_what_is_none(void)
{
    static const char *const networks[] = {
        "",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/ 8",
        "10.0.0.0/8x",
        "::/129",
        "a.test/8",
        "10.0.0/8",
        "/8",
        "10.0.0.0/+8",
        "[::]/8",
        "1:2:3:4:5:6:7:8:9:0:1:2:3:4:5:6:7:8:9:0:1:2:3:4:5:6:7/8",
    };
    for (size_t i = 0; i < COUNT_OF(networks); i++) {
        struct network network;
        CHECK(!network_parse(networks[i], &network));
    }
    struct address address;
    CHECK(!address_parse("a.test", &address));
    CHECK(!address_parse("1.2.3", &address));
    CHECK(!address_parse("[::1]", &address));
}

static void
test_embedded_ipv4(void)
{
    static const char *const cases[][2] = {
        {"64:ff9b::a9fe:a9fe", "169.254.169.254"},
        {"64:ff9b:1::a9fe:a9fe", "169.254.169.254"},
        {"2002:a9fe:a9fe::1", "169.254.169.254"},
        {"::169.254.169.254", "169.254.169.254"},
        {"::1", NULL},
        {"::", NULL},
        {"2001:db8::1", NULL},
        {"10.0.0.1", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct address address, inner, wanted;
        CHECK(address_parse(cases[i][0], &address));
        CHECK_INT(address_embedded_ipv4(&address, &inner), cases[i][1] != NULL);
        if (cases[i][1] != NULL) {
            CHECK(address_parse(cases[i][1], &wanted));
            CHECK(memcmp(&inner, &wanted, sizeof inner) == 0);
        }
    }
}

static void
test_own_addresses(void)
{
    struct network *own;
    size_t count;
    struct address loopback;
    bool found = false;
    TRY(network_own_addresses(&own, &count));
    CHECK(address_parse("127.0.0.1", &loopback));
    for (size_t i = 0; i < count; i++) {
        CHECK_INT(own[i].bits, 128);
        found = found || network_contains(&own[i], &loopback);
    }
    mem_free(own);
    CHECK(found);
}

TESTS(TEST(contains), TEST(what_is_none), TEST(embedded_ipv4), TEST(own_addresses))
