/* The engine: the life of every request, from token to record.  All that the binding sees of the
 * core.
 *
 * The engine owns its threads, the rule set in place and the spool.  A struct request belongs to
 * the binding from engine_begin to engine_release; while it is undecided the engine holds pointers
 * to it, so it must stay until then.
 *
 * One thread at a time: the loop's, or, for engine_release, whichever holds the GIL.  Only
 * engine_halt may run beside others; and while engine_begin, engine_judge, engine_drain or a caller
 * of engine_rules match a long URL, outside of config.gate, another thread may call engine_release.
 */
#ifndef FORWARDER_ENGINE_H
#define FORWARDER_ENGINE_H

#include "event.h"
#include "http.h"
#include "reason.h"
#include "rules.h"
#include "spool.h"
#include "stats.h"
#include "targets.h"
#include "upstream.h"
#include "url.h"
#include "verdict.h"

/* Borrowed for the length of engine_create. */
struct engine_config {
    const char *proxy_url, *blacklist_url, *activity_url;
    const char *system_token;     /* bare */
    const char *default_user_jwt; /* bare; NULL: none */
    bool require_user_jwt;
    bool forward_authorization;
    const char *user_id_claim; /* comma-separated names */
    struct http_tls tls;
    int64_t refresh_ms;
    int64_t max_stale_ms; /* 0: a rule set never grows too old */
    size_t blacklist_max_bytes;
    int max_shrink_percent; /* 0: any list is obeyed */
    const char *state_dir;  /* for the last good rules; NULL: nowhere */
    int timeout_ms;         /* queue, backend, dials and retries together */
    int connect_timeout_ms; /* to the backend */
    int queue_timeout_ms;
    size_t max_concurrent;
    unsigned proxy_retries;
    bool deny_private_targets, deny_ip_literals;
    const char *allow_targets; /* as in targets.h */
    struct spool_config spool;
    struct verdict_gate gate; /* around the matching of a long URL */
};

struct engine;
struct request;

/* What the binding read from the flow; borrowed for the length of the call. */
struct request_input {
    struct slice method;
    struct url_parts target;
    struct slice host_header;   /* as sent; empty: none */
    struct slice authority;     /* of the request target, or :authority; empty: none */
    struct slice sni;           /* of the client's TLS; empty: none */
    struct slice authorization; /* header values; empty: none */
    struct slice proxy_authorization;
    struct slice
        tunnel_authorization; /* what came with the CONNECT of this connection; empty: none */
};

#define ENGINE_MESSAGE_SIZE 256

/* Opens the spool and makes the threads, none of which runs yet.  On failure message says what is
 * wrong. */
enum err
engine_create(const struct engine_config *config, struct engine **out,
              char message[ENGINE_MESSAGE_SIZE]) MUST_CHECK;
enum err
engine_start(struct engine *engine) MUST_CHECK;
/* Decides everybody who waits, for whatever: shutting_down.  They come out of engine_take_decided.
 */
void
engine_give_up(struct engine *engine);
/* See csrc/README.md, "Stopping".  Undecided requests are decided (shutting_down) and wait in
 * engine_take_decided. */
void
engine_stop(struct engine *engine, int timeout_ms);
/* What of that waits: sends until the deadline, joins all threads.  After engine_give_up, before
 * engine_stop.  It touches no request, so that another thread may release some meanwhile (the
 * binding drops the GIL for this, and a garbage collection runs wherever it likes). */
void
engine_halt(struct engine *engine, int timeout_ms);
/* The engine must be stopped, or this is a forked child (nothing is freed then). */
void
engine_destroy(struct engine *engine);
/* From now on every new request is answered shutting_down; those that run go on. */
void
engine_refuse(struct engine *engine);
/* New secrets; default_user_jwt may be NULL. */
enum err
engine_set_secrets(struct engine *engine, const char *system_token,
                   const char *default_user_jwt) MUST_CHECK;
/* Where this gateway listens, as host:port, separated by spaces: never a target. */
enum err
engine_set_listeners(struct engine *engine, const char *authorities) MUST_CHECK;
/* Fetches the rules now. */
void
engine_refresh(struct engine *engine);

/* Readable while events wait. */
int
engine_fd(const struct engine *engine);
/* Handles the waiting events. */
void
engine_drain(struct engine *engine);
/* A request that was decided since it was asked about; NULL when there is none. */
struct request *
engine_take_decided(struct engine *engine);
/* A line for the log, to be freed with engine_notice_destroy; NULL when there is none. */
struct notice *
engine_take_notice(struct engine *engine);
void
engine_notice_destroy(struct notice *notice);
/* When engine_expire should be called next (clock_now_ms); CLOCK_NEVER. */
int64_t
engine_next_expiry_ms(const struct engine *engine);
/* Answers those who have waited too long. */
void
engine_expire(struct engine *engine);

/* Token, blacklist, permit, backend.  owner is the binding's and comes back from request_owner.  On
 * success the request is either decided, or it will come out of engine_take_decided.  Only
 * ERR_MEMORY fails: answer `internal`. */
enum err
engine_begin(struct engine *engine, const struct request_input *input, void *owner,
             struct request **out) MUST_CHECK;
/* The dial failed before a byte of the request had left: asks for another upstream proxy.
 * Undecided, or decided at once (no try left: REASON_no_proxy). */
enum err
engine_retry(struct engine *engine, struct request *request) MUST_CHECK;
/* Is the URL that is about to leave the one that was judged, or, judged now, allowed?  On false
 * request_reason says why not.  ERR_MEMORY must be taken for false. */
enum err
engine_judge(struct engine *engine, struct request *request, const struct url_parts *target,
             bool *allowed) MUST_CHECK;
/* Writes the one activity record; does nothing when it was written before.  ERR_CLOSED once the
 * engine is stopped. */
enum err
engine_record(struct engine *engine, struct request *request, int status) MUST_CHECK;
/* At the end of the process: records whoever is still running as 499, for there will be no status.
 */
void
engine_record_unfinished(struct engine *engine);
/* The client has gone.  A request that waits for its turn gives up its place at once, and comes out
 * of engine_take_decided; any other takes its course, for the answer names the user. */
void
engine_leave(struct engine *engine, struct request *request);
/* The flow has ended: the permit goes back.  Does nothing the second time.  A request that is still
 * undecided counts as decided (internal) from here on, and does not come out of engine_take_decided
 * any more. */
void
engine_finish(struct engine *engine, struct request *request);
/* Finishes and frees.  The request must be decided. */
void
engine_release(struct engine *engine, struct request *request);

bool
request_is_decided(const struct request *request);
bool
request_is_recorded(const struct request *request);
bool
request_is_finished(const struct request *request);
void *
request_owner(const struct request *request);
/* REASON_NONE: routed, and request_upstream is set. */
enum reason
request_reason(const struct request *request);
/* One line for the answer's detail, "" when the reason says it all; holds no secret. */
const char *
request_detail(const struct request *request);
const struct upstream *
request_upstream(const struct request *request);
/* The `Authorization` header was the user token and must not leave. */
bool
request_takes_authorization(const struct request *request);
/* Whose request it is, as the client says: the bare JWT; borrowed, empty where there is none. */
struct slice
request_token(const struct request *request);
/* What must not leave in any `Authorization` header, whatever its scheme; borrowed, may be empty.
 */
struct slice
request_token_to_hide(const struct request *request);
const char *
request_id(const struct request *request);
const char *
request_method(const struct request *request);
/* Without query and user information, for the log. */
const char *
request_loggable_url(const struct request *request);
int64_t
request_started_ms(const struct request *request);
int64_t
request_deadline_ms(const struct request *request);

/* The rule set in place, of which the caller gets a reference, and the desk to ask it at.  False:
 * there is none yet. */
bool
engine_rules(struct engine *engine, struct rules **rules, struct verdict_desk **desk);

struct engine_gauges {
    size_t running; /* requests that have not ended */
    size_t permits_held, permits_waiting;
    size_t rules;         /* in the set in place */
    size_t rules_always, rules_quarantined, rules_counted; /* some of them, see rules.h */
    int64_t rules_age_ms; /* since the backend confirmed it; -1: never */
    int64_t spool_depth, spool_dead, spool_bytes;
    int64_t spool_age_ms;    /* of the oldest record that waits */
    const char *spool_place; /* borrowed */
    bool breaker_open;
};
void
engine_gauges(struct engine *engine, struct engine_gauges *out);
uint64_t
engine_counter(const struct engine *engine, enum stats_counter counter);

#endif
