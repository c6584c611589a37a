#include "trust.h"

#include "harness.h"

static void
forget_environment(void)
{
    unsetenv("SSL_CERT_FILE");
    unsetenv("SSL_CERT_DIR");
}

#define TRUST(name)                                                                                \
    forget_environment();                                                                          \
    CLEANUP(trust_fini) struct trust name = {0}

static void
test_named_bundle_wins(void)
{
    TRUST(trust);
    setenv("SSL_CERT_FILE", "/other.pem", 1);
    setenv("SSL_CERT_DIR", "/other", 1);
    enum err err = trust_init(&trust, "/not/there.pem", "/etc/hostname");
    forget_environment();
    TRY(err);
    CHECK_STRING(trust.file, "/not/there.pem");
    CHECK(trust.directory == NULL);
}

static void
test_environment(void)
{
    TRUST(trust);
    setenv("SSL_CERT_DIR", "/certs", 1);
    enum err err = trust_init(&trust, "", "/dev/null");
    forget_environment();
    TRY(err);
    /* Not even the default beside it: who names a directory means that one. */
    CHECK(trust.file == NULL);
    CHECK_STRING(trust.directory, "/certs");
    trust_fini(&trust);
    setenv("SSL_CERT_FILE", "/file.pem", 1);
    setenv("SSL_CERT_DIR", "", 1);
    err = trust_init(&trust, NULL, "/dev/null");
    forget_environment();
    TRY(err);
    CHECK_STRING(trust.file, "/file.pem");
    CHECK(trust.directory == NULL);
}

static void
test_default_of_the_library(void)
{
    TRUST(trust);
    TRY(trust_init(&trust, NULL, "/dev/null"));
    CHECK_STRING(trust.file, "/dev/null");
    trust_fini(&trust);
    /* A path of the machine that built it: one of this machine's, or none. */
    TRY(trust_init(&trust, NULL, "/nonexistent/bundle.pem"));
    CHECK(trust.file == NULL || access(trust.file, R_OK) == 0);
    trust_fini(&trust);
    TRY(trust_init(&trust, NULL, NULL));
    CHECK(trust.file == NULL || access(trust.file, R_OK) == 0);
}

TESTS(TEST(named_bundle_wins), TEST(environment), TEST(default_of_the_library))
