#include "targets.h"

#include <unistd.h>

#include "harness.h"

#define TARGETS(name)                                                                              \
    CLEANUP(targets_fini) struct targets name = {.own = NULL};                                     \
    char message[TARGETS_MESSAGE_SIZE] = ""

static const char *
refuse(const struct targets *targets, const char *host, int port)
{
    return targets_refuse(targets, (struct slice){host, strlen(host)}, port);
}

#define SELF "the target is this gateway itself"
#define BACKEND "the target is the proxy manager"
#define METADATA "link-local and metadata addresses are never a target"
#define PRIVATE "private addresses are not a target"
#define LITERAL "the target must be a name, not an IP address"

struct expected {
    const char *host;
    int port;
    const char *why;
};

static void
check(const struct targets *targets, const struct expected *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *why = refuse(targets, cases[i].host, cases[i].port);
        if (cases[i].why == NULL) {
            CHECK_STRING(why == NULL ? cases[i].host : why, cases[i].host);
        }
        else {
            CHECK_STRING(why == NULL ? cases[i].host : why, cases[i].why);
        }
    }
}

static void
test_never(void)
{
    static const struct expected cases[] = {
        {"169.254.169.254", 80, METADATA},
        {"169.254.0.1", 443, METADATA},
        {"100.100.100.200", 80, METADATA},
        {"168.63.129.16", 80, METADATA},
        {"192.0.0.192", 80, METADATA},
        {"fd00:ec2::254", 80, METADATA},
        {"fe80::1", 80, METADATA},
        {"0.0.0.0", 80, METADATA},
        {"::", 80, METADATA},
        {"64:ff9b::a9fe:a9fe", 80, METADATA},
        {"2002:a9fe:a9fe::", 80, METADATA},
        {"metadata.google.internal", 80, METADATA},
        {"a.metadata.google.internal", 80, METADATA},
        {"metadata", 80, METADATA},
        {"instance-data", 80, METADATA},
        {"xmetadata.google.internal", 80, NULL},
        {"metadata.test", 80, NULL},
        {"example.com", 80, NULL},
        {"10.0.0.1", 80, NULL},
        {"127.0.0.1", 80, NULL},
        {"::1", 80, NULL},
        {"localhost", 80, NULL},
        {"170.254.1.1", 80, NULL},
    };
    TARGETS(targets);
    struct targets_config config = {.allow = NULL};
    TRY(targets_init(&targets, &config, message));
    check(&targets, cases, COUNT_OF(cases));
}

static void
test_backends(void)
{
    static const struct expected cases[] = {
        {"127.0.0.1", 8000, BACKEND},   {"localhost", 8000, BACKEND},
        {"a.localhost", 8000, BACKEND}, {"127.8.8.8", 8000, BACKEND},
        {"::1", 8000, BACKEND},         {"127.0.0.1", 8001, NULL},
        {"manager.test", 443, BACKEND}, {"manager.test", 80, NULL},
        {"x.manager.test", 443, NULL},  {"2001:db8::5", 8080, BACKEND},
        {"0.0.0.0", 8000, BACKEND},     {"notlocalhost", 8000, NULL},
    };
    TARGETS(targets);
    struct targets_config config = {.backends = {"http://127.0.0.1:8000/proxy",
                                                 "https://Manager.test./blacklist",
                                                 "http://[2001:DB8::5]:8080"}};
    TRY(targets_init(&targets, &config, message));
    check(&targets, cases, COUNT_OF(cases));
}

static void
test_bad_backend(void)
{
    TARGETS(targets);
    struct targets_config config = {.backends = {"http://a..b/proxy"}};
    CHECK(targets_init(&targets, &config, message) == ERR_INVALID);
    CHECK_STRING(message, "the backend's URL has no host");
}

static void
test_listeners(void)
{
    static const struct expected cases[] = {
        {"127.0.0.1", 8080, SELF},   {"localhost", 8080, SELF}, {"192.0.2.7", 8081, SELF},
        {"192.0.2.7", 8080, NULL},   {"127.0.0.1", 8081, NULL}, {"::1", 8080, SELF},
        {"example.com", 8080, NULL},
    };
    TARGETS(targets);
    struct targets_config config = {.allow = NULL};
    TRY(targets_init(&targets, &config, message));
    CHECK(refuse(&targets, "127.0.0.1", 8080) == NULL);
    TRY(targets_set_listeners(&targets, "0.0.0.0:8080 [::]:8080 192.0.2.7:8081"));
    check(&targets, cases, COUNT_OF(cases));
    char name[256];
    CHECK(gethostname(name, sizeof name) == 0);
    CHECK_STRING(refuse(&targets, name, 8080), SELF);
    CHECK(targets_set_listeners(&targets, "127.0.0.1:9 nonsense..") == ERR_INVALID);
    check(&targets, cases, COUNT_OF(cases));
    TRY(targets_set_listeners(&targets, ""));
    CHECK(refuse(&targets, "127.0.0.1", 8080) == NULL);
}

static void
test_private(void)
{
    static const struct expected cases[] = {
        {"10.1.2.3", 80, PRIVATE},
        {"172.31.0.1", 80, PRIVATE},
        {"192.168.1.1", 80, PRIVATE},
        {"127.0.0.1", 80, PRIVATE},
        {"100.64.0.1", 80, PRIVATE},
        {"::1", 80, PRIVATE},
        {"fd12::1", 80, PRIVATE},
        {"224.0.0.1", 80, PRIVATE},
        {"255.255.255.255", 80, PRIVATE},
        {"64:ff9b::a00:1", 80, PRIVATE},
        {"localhost", 80, PRIVATE},
        {"intranet", 80, PRIVATE},
        {"db.internal", 80, PRIVATE},
        {"printer.local", 80, PRIVATE},
        {"8.8.8.8", 80, NULL},
        {"2606:4700::1111", 80, NULL},
        {"example.com", 80, NULL},
        {"local.example.com", 80, NULL},
        {"169.254.1.1", 80, METADATA},
    };
    TARGETS(targets);
    struct targets_config config = {.deny_private = true};
    TRY(targets_init(&targets, &config, message));
    check(&targets, cases, COUNT_OF(cases));
}

static void
test_literals(void)
{
    static const struct expected cases[] = {
        {"8.8.8.8", 80, LITERAL},
        {"2606:4700::1111", 80, LITERAL},
        {"example.com", 80, NULL},
        {"localhost", 80, NULL},
    };
    TARGETS(targets);
    struct targets_config config = {.deny_ip_literals = true};
    TRY(targets_init(&targets, &config, message));
    check(&targets, cases, COUNT_OF(cases));
}

static void
test_allowed(void)
{
    static const struct expected cases[] = {
        {"169.254.169.254", 80, NULL},   {"169.254.169.253", 80, METADATA},
        {"10.1.2.3", 80, NULL},          {"10.1.2.3", 443, NULL},
        {"192.168.1.1", 80, PRIVATE},    {"192.168.1.1", 8443, NULL},
        {"intranet", 80, NULL},          {"a.intranet", 80, NULL},
        {"x.corp.internal", 80, NULL},   {"corp.internal", 80, PRIVATE},
        {"xcorp.internal", 80, PRIVATE}, {"::1", 80, NULL},
        {"fd00::2", 81, NULL},           {"fd00::2", 80, PRIVATE},
        {"127.0.0.1", 8000, NULL},       {"localhost", 8000, BACKEND},
    };
    TARGETS(targets);
    struct targets_config config = {
        .deny_private = true,
        .allow = "169.254.169.254, 10.0.0.0/8 ,192.168.1.1:8443,INTRANET,*.corp.internal,::1,"
                 "[fd00::2]:81,127.0.0.1:8000",
        .backends = {"http://127.0.0.1:8000"},
    };
    TRY(targets_init(&targets, &config, message));
    check(&targets, cases, COUNT_OF(cases));
}

static void
test_bad_allowances(void)
{
    static const char *const cases[] = {
        "a.test,,b.test", "10.0.0.0/33", "*", "*.", "a b", "a:0", "a.test,http://b.test"};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        TARGETS(targets);
        struct targets_config config = {.allow = cases[i]};
        CHECK(targets_init(&targets, &config, message) == ERR_INVALID);
        CHECK(strncmp(message, "ALLOW_TARGETS: entry ", 21) == 0);
    }
}

static void
test_long_host(void)
{
    char host[400];
    TARGETS(targets);
    struct targets_config config = {.allow = NULL};
    TRY(targets_init(&targets, &config, message));
    memset(host, 'a', sizeof host);
    CHECK(targets_refuse(&targets, (struct slice){host, sizeof host}, 80) != NULL);
}

TESTS(TEST(never), TEST(backends), TEST(bad_backend), TEST(listeners), TEST(private),
      TEST(literals), TEST(allowed), TEST(bad_allowances), TEST(long_host))
