/* The delivery's inside, for delivery.c (the loop and the spool thread) and delivery_post.c (the
 * reactor) only.
 *
 * A post is made by the spool thread, given to the reactor, and comes back settled; whoever holds
 * it owns all in it.
 *
 * Each field says whose it is. */
#ifndef FORWARDER_DELIVERY_STATE_H
#define FORWARDER_DELIVERY_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "delivery.h"

/* Runs on the spool thread. */
struct store_task {
    struct mail mail;
    void (*run)(struct store_task *task);
};

enum post_fate { POST_DELIVERED, POST_BURIED };

/* One record of the window. */
struct post {
    struct reactor_task send; /* spool thread → reactor */
    struct store_task settle; /* reactor → spool thread */
    struct link ready;        /* the reactor's list of posts that wait to be sent */
    struct delivery *delivery;
    struct spool_record record;
    struct http_call call;
    enum post_fate fate;
    unsigned round; /* the delivery's, when it was sent */
};

struct delivery {
    struct reactor *reactor;
    struct mailbox *outbox;
    struct stats *stats;
    char *url;
    const struct buf *authorization;
    int timeout_ms;
    struct spool *spool;

    /* loop → spool thread */
    struct mailbox inbox;
    struct store_task move;
    atomic_bool move_asked; /* `move` is on its way */
    struct store_task flush;
    struct mailbox flushed; /* spool thread → loop: everything is delivered */
    struct mail flushed_mail;
    pthread_t thread;
    bool started;
    atomic_bool stopping;

    /* the spool thread's */
    int64_t last_move_ms;
    int64_t move_due_ms; /* CLOCK_NEVER: nothing to move */
    int64_t cursor;      /* rows up to this one are in the window, or were */
    size_t window;       /* posts that are out */
    int64_t look_due_ms; /* at what others left or wrote */
    int64_t accepted[DELIVERY_WINDOW]; /* rows still to be deleted */
    size_t accepted_count;
    bool flushing;
    bool store_failed; /* said so already */
    int64_t drop_notice_ms; /* not said again before */

    /* the reactor's */
    struct list ready;
    struct list settled; /* posts not yet given back */
    size_t settled_count;
    size_t in_flight;
    unsigned failures; /* in a row, of the delivery as a whole */
    unsigned round;    /* a failure ends one: what was sent in an earlier one says nothing new */
    int64_t not_before_ms;
    int paused_status; /* said so already; 0 when not paused */
    struct reactor_timer timer;
};

/* The reactor's entry points. */
void
delivery_post_by_task(struct reactor_task *task);
void
delivery_post_by_timer(struct reactor_timer *timer);
void
delivery_post_destroy(struct post *post);
/* To the spool thread, all that are settled.  Also the loop's, once the reactor is stopped. */
void
delivery_post_give_back(struct delivery *delivery);

#endif
