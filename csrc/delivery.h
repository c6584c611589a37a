/* Activity delivery: the spool thread stores, the reactor posts, each in its own file of work.
 *
 * The delivery owns the spool and its thread.  A record in the window belongs to one struct post,
 * which travels between the two threads; the database keeps the record until the backend has
 * accepted it.
 *
 * create, start, flush, stop, destroy, delivery_append: the loop. */
#ifndef FORWARDER_DELIVERY_H
#define FORWARDER_DELIVERY_H

#include "event.h"
#include "reactor.h"
#include "spool.h"
#include "stats.h"

struct delivery;

struct delivery_config {
    struct spool_config spool;
    const char *url;
    const struct buf *authorization; /* the whole header; the reactor's, may change between calls */
    int timeout_ms;
};

/* How many records may be on their way between database and backend. */
#define DELIVERY_WINDOW 64
/* How many of them may be on the wire at once. */
#define DELIVERY_IN_FLIGHT 8

/* On failure message says what is wrong and what to do. */
enum err
delivery_create(struct reactor *reactor, struct mailbox *outbox, struct stats *stats,
                const struct delivery_config *config, struct delivery **out,
                char message[SPOOL_MESSAGE_SIZE]) MUST_CHECK;
enum err
delivery_start(struct delivery *delivery) MUST_CHECK;
/* One write(2): on success the record outlives this process. */
enum err
delivery_append(struct delivery *delivery, const char key[SPOOL_KEY_LEN],
                struct slice body) MUST_CHECK;
bool
delivery_is_healthy(struct delivery *delivery);
/* For its numbers and its place; borrowed. */
struct spool *
delivery_spool(struct delivery *delivery);
/* The system token changed: what was paused may go on.  The reactor thread. */
void
delivery_resume(struct delivery *delivery);
/* Waits until everything is delivered, or for timeout_ms. */
void
delivery_flush(struct delivery *delivery, int timeout_ms);
/* Moves what is left into the database and joins the thread.  The reactor must be stopped. */
void
delivery_stop(struct delivery *delivery);
/* After reactor_destroy. */
void
delivery_destroy(struct delivery *delivery);

#endif
