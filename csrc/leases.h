/* Leases: answers about an upstream proxy that the backend allows to be used again, by user and
 * target host (DESIGN.md §7).
 *
 * The table owns its leases and all in them, but for the links of those who wait for one, which are
 * the caller's.  Keys hold user tokens and are overwritten when they go.
 *
 * One thread (the loop). */
#ifndef FORWARDER_LEASES_H
#define FORWARDER_LEASES_H

#include "list.h"
#include "reason.h"
#include "upstream.h"

#define LEASE_MESSAGE_SIZE 200
/* However long the backend allows. */
#define LEASE_MAX_MS INT64_C(3600000)

/* What was leased: a proxy, or the answer that there is none. */
struct lease {
    enum reason reason; /* REASON_NONE: upstream is set */
    struct upstream upstream;
    struct wire_id user_id;
    char message[LEASE_MESSAGE_SIZE];
};

struct leases;

enum err leases_create(size_t max, struct leases **out) MUST_CHECK;
void leases_destroy(struct leases *leases);

/* The key of a user (the token may be empty) and of the scheme, host and port of a canonical URL. */
enum err leases_append_key(struct buf *out, struct slice token, struct slice url) MUST_CHECK;

/* Does the backend grant leases at all, as far as the last answers say?  Until it does, nothing
 * needs a key. */
bool leases_are_granted(const struct leases *leases);
/* A lease that may be used now; borrowed until the next call, NULL when there is none. */
const struct lease *leases_get(struct leases *leases, struct slice key);
/* Keeps a copy for duration_ms; one of 0 only forgets what was there. */
enum err leases_put(struct leases *leases, struct slice key, const struct lease *lease,
                    int64_t duration_ms) MUST_CHECK;
void leases_drop(struct leases *leases, struct slice key);

/* Somebody asks the backend for this key: whoever else would ask the same may wait.  *waiting is
 * where to wait, NULL for the one that has to ask. */
enum err leases_ask(struct leases *leases, struct slice key, struct list **waiting) MUST_CHECK;
/* The answer is here: those who waited go to the list. */
void leases_answered(struct leases *leases, struct slice key, struct list *waiting);

#endif
