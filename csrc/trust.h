/* Which certificate authorities the backend's certificate may come from.
 *
 * The struct is the caller's memory and owns its strings.
 *
 * Any thread, but it reads the environment: before other threads may change that. */
#ifndef FORWARDER_TRUST_H
#define FORWARDER_TRUST_H

#include "base.h"

/* NULL where not used; both may be set, neither means that nothing is trusted. */
struct trust {
    char *file;      /* PEM bundle */
    char *directory; /* certificates by hash */
};

/* In this order: `bundle`; SSL_CERT_FILE and SSL_CERT_DIR; `library_default`, if that file exists;
 * the bundles of the usual systems.  NULL and "" are "not given".  A file that was named and is not
 * there is taken all the same: every connection then fails and says so. */
enum err trust_init(struct trust *trust, const char *bundle,
                    const char *library_default) MUST_CHECK;
void trust_fini(struct trust *trust);

#endif
