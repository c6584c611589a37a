/* The one I/O thread: runs the HTTP client, timers, and tasks that other threads post.
 *
 * A task is given away by reactor_post and run once on the reactor thread; its `run` frees or
 * reuses it.  A timer is its owner's memory and must be disarmed before that goes.
 *
 * reactor_post: any thread.  create, start, stop, destroy: the loop.  The rest: the reactor thread.
 */
#ifndef FORWARDER_REACTOR_H
#define FORWARDER_REACTOR_H

#include "http.h"
#include "mailbox.h"

struct reactor;

struct reactor_task {
    struct mail mail;
    void (*run)(struct reactor_task *task);
};

struct reactor_timer {
    struct link link;
    int64_t due_ms; /* on clock_now_ms */
    void (*fire)(struct reactor_timer *timer);
};

enum err
reactor_create(const struct http_tls *tls, int max_connections, int connect_timeout_ms,
               struct reactor **out) MUST_CHECK;
enum err
reactor_start(struct reactor *reactor) MUST_CHECK;
/* Closes the inbox, runs what is in it, ends and joins the thread.  Harmless when it never started.
 */
void
reactor_stop(struct reactor *reactor);
/* Ends what was still on the wire (its `done` runs here, as cancelled).  The reactor must be
 * stopped, and every thread that posts to it joined. */
void
reactor_destroy(struct reactor *reactor);

/* False when the reactor is stopping: the task is still the caller's then. */
bool
reactor_post(struct reactor *reactor, struct reactor_task *task) MUST_CHECK;

struct http_client *
reactor_http(struct reactor *reactor);
/* True once reactor_stop was called: do not start anything new. */
bool
reactor_is_stopping(const struct reactor *reactor);
void
reactor_timer_init(struct reactor_timer *timer, void (*fire)(struct reactor_timer *timer));
/* Arms, or moves, the timer. */
void
reactor_arm(struct reactor *reactor, struct reactor_timer *timer, int64_t due_ms);
void
reactor_disarm(struct reactor_timer *timer);

#endif
