/* The blacklist's refresh: fetches the list, has it compiled on a thread of its own, hands the new
 * set to the loop, and keeps the list on disk.  The list that an earlier process has kept is
 * compiled before the first call, and is in force as soon as the backend has confirmed it or has
 * failed to answer.
 *
 * The refresh owns its call, its timer, the compile thread and one reference to the newest set
 * (what has not changed is taken over from it).  Each EVENT_RULES owns one reference, which the
 * loop takes.
 *
 * create, destroy, start, join: the loop.  refresh_ask: any thread.  The rest happens on the
 * reactor. */
#ifndef FORWARDER_REFRESH_H
#define FORWARDER_REFRESH_H

#include "event.h"
#include "reactor.h"
#include "rules.h"
#include "stats.h"

struct refresh;

struct refresh_config {
    const char *url;
    const struct buf *authorization; /* the whole header; the reactor's, may change between calls */
    int64_t interval_ms;             /* ± 10 % */
    int timeout_ms;
    size_t max_body;
    int max_shrink_percent; /* 0: any list is obeyed */
    const char *state_dir;  /* NULL: no list is kept */
};

/* News of the rule set. */
struct rules_event {
    struct event event;
    struct rules *rules;  /* owned; NULL when nothing changed or the attempt failed */
    bool confirmed;       /* something is known of when the set in place was the backend's list: */
    int64_t confirmed_ms; /* when it was asked, on clock_now_ms; long past when that is unknown */
};

enum err
refresh_create(struct reactor *reactor, struct mailbox *outbox, struct stats *stats,
               const struct refresh_config *config, struct refresh **out) MUST_CHECK;
/* Asks for the first list. */
enum err
refresh_start(struct refresh *refresh) MUST_CHECK;
/* Asks for the list now, whatever the timer says. */
void
refresh_ask(struct refresh *refresh);
/* Waits for a running compile thread.  The reactor must be stopped. */
void
refresh_join(struct refresh *refresh);
/* After reactor_destroy. */
void
refresh_destroy(struct refresh *refresh);
void
rules_event_destroy(struct rules_event *event);

/* How long until the next call, after so many failures in a row; by chance, so that many gateways
 * do not come at once. */
int64_t
refresh_wait_ms(int64_t interval_ms, unsigned failures);

#endif
