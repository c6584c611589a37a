#include "trust.h"

#include <stdlib.h>
#include <unistd.h>

#include "mem.h"

static bool
is_given(const char *text)
{
    return text != NULL && text[0] != '\0';
}

/* A library that was built elsewhere names a file of that machine, so every candidate is looked at.
 */
static const char *
find_bundle(const char *library_default)
{
    const char *const candidates[] = {
        library_default,
        "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Ubuntu, Alpine, Arch */
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* Fedora, RHEL */
        "/etc/ssl/ca-bundle.pem",                            /* openSUSE */
        "/etc/ssl/cert.pem",                                 /* macOS, BSD */
    };
    for (size_t i = 0; i < COUNT_OF(candidates); i++) {
        if (is_given(candidates[i]) && access(candidates[i], R_OK) == 0) {
            return candidates[i];
        }
    }
    return NULL;
}

enum err
trust_init(struct trust *trust, const char *bundle, const char *library_default)
{
    /* libcurl itself does not read these two, but people expect them to work. */
    const char *file = getenv("SSL_CERT_FILE"), *directory = getenv("SSL_CERT_DIR");
    struct trust made = {0};
    if (is_given(bundle)) {
        file = bundle;
        directory = NULL;
    }
    else if (!is_given(file) && !is_given(directory)) {
        file = find_bundle(library_default);
    }
    if ((is_given(file) && (made.file = mem_string(file)) == NULL) ||
        (is_given(directory) && (made.directory = mem_string(directory)) == NULL)) {
        trust_fini(&made);
        return ERR_MEMORY;
    }
    *trust = made;
    return ERR_OK;
}

void
trust_fini(struct trust *trust)
{
    mem_free(trust->file);
    mem_free(trust->directory);
    *trust = (struct trust){0};
}
