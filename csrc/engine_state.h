/* The engine's inside, for engine.c (the life of a request), engine_lookup.c (its upstream proxy)
 * and engine_life.c (the life of the engine) only.
 *
 * The engine owns all of it.
 *
 * The loop thread, but for what its comment gives to another. */
#ifndef FORWARDER_ENGINE_STATE_H
#define FORWARDER_ENGINE_STATE_H

#include <unistd.h>

#include "delivery.h"
#include "engine.h"
#include "leases.h"
#include "lookup.h"
#include "permits.h"
#include "refresh.h"
#include "rules.h"
#include "targets.h"
#include "token.h"
#include "verdict.h"

struct engine {
    pid_t owner;           /* a forked child must leave everything alone */
    struct mailbox outbox; /* from all other threads */
    struct stats stats;
    char *proxy_url, *blacklist_url, *user_id_claim, *state_dir;
    struct token default_token;
    bool require_token, forward_authorization;
    int timeout_ms, queue_timeout_ms;
    int64_t max_stale_ms;
    unsigned proxy_retries;

    struct reactor *reactor; /* NULL once stopped: nothing can be asked any more */
    struct lookup_service lookups;
    struct refresh *refresh;
    struct delivery *delivery;
    struct buf authorization; /* "Bearer SYSTEM_TOKEN"; the reactor's once it runs */

    struct targets targets;

    struct rules *rules; /* in place; NULL: none yet */
    struct verdict_desk desk;
    int64_t rules_confirmed_ms;
    bool rules_attempted; /* the first fetch has ended, well or badly */

    struct token_cache *users;
    struct leases *leases;
    struct permits permits;
    struct list waiting_for_rules;
    struct list live; /* all that have not ended */
    size_t live_count;
    struct list decided; /* to be taken by the binding */
    struct list notices; /* likewise */
    bool refusing;
    bool started;
    bool halted; /* the threads are joined, or somebody is at it */
};

static inline bool
engine_is_forked(const struct engine *engine)
{
    return engine->owner != getpid();
}

/* The detail may be NULL: then what is written there already stays.  The request joins the decided
 * ones; a caller that is still there takes it out again. */
void
engine_decide(struct engine *engine, struct request *request, enum reason reason,
              const char *detail);
/* By a lease or the backend. */
void
engine_look_up(struct engine *engine, struct request *request);
void
engine_lookup_answered(struct engine *engine, struct lookup *lookup);
/* Once the engine is stopped and no record can come any more, its spool is for others to adopt: the
 * engine itself lives for as long as somebody holds a flow. */
void
engine_let_go_of_spool(struct engine *engine);
/* What the request was routed by is of no use. */
void
engine_drop_lease(struct engine *engine, struct request *request);

/* Decides all who wait for a permit or the first rules until now_ms. */
void
engine_expire_at(struct engine *engine, int64_t now_ms, enum reason permits_reason,
                 enum reason rules_reason);

#endif
