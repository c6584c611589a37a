/* Many producers, one consumer: a list of messages and a way to wake the consumer, once a burst.
 *
 * A message is a struct mail inside the sender's struct; mailbox_post gives it to the consumer.
 * After mailbox_close nothing is taken any more: mailbox_post returns false and the sender still
 * owns its message.
 *
 * Post and close: any thread.  The rest: the one consumer. */
#ifndef FORWARDER_MAILBOX_H
#define FORWARDER_MAILBOX_H

#include "list.h"
#include "lock.h"

struct mail {
    struct link link;
};

/* Wakes the consumer; called without the lock by the producer that made the box non-empty. */
typedef void
mailbox_wake_fn(void *context);

struct mailbox {
    struct lock lock;
    struct list mails; /* under lock */
    bool closed;       /* under lock */
    mailbox_wake_fn *wake;
    void *wake_context;
    int read_fd;  /* -1 when the owner brought its own wake function */
    int write_fd; /* equals read_fd with eventfd */
};

/* A box that is woken by its own descriptor (eventfd, or a pipe where there is none). */
enum err
mailbox_init_fd(struct mailbox *box) MUST_CHECK;
/* A box whose consumer sleeps somewhere else, as in curl_multi_poll. */
void
mailbox_init_wake(struct mailbox *box, mailbox_wake_fn *wake, void *context);
/* The box must be empty. */
void
mailbox_fini(struct mailbox *box);

bool
mailbox_post(struct mailbox *box, struct mail *mail) MUST_CHECK;
/* Several (at least one) with one wake-up at most: all are taken, or none. */
bool
mailbox_post_all(struct mailbox *box, struct list *mails) MUST_CHECK;
void
mailbox_close(struct mailbox *box);

/* Moves all waiting mails, oldest first, into `out` (which must be empty) and clears the wake-up.
 */
void
mailbox_take_all(struct mailbox *box, struct list *out);
/* Readable while mails wait; -1 for a box with its own wake function. */
int
mailbox_fd(const struct mailbox *box);
/* Sleeps until a mail is there or timeout_ms have passed (-1: for ever).  Only for a box with a
 * descriptor. */
void
mailbox_wait(struct mailbox *box, int timeout_ms);

#endif
