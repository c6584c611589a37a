/* MAX_CONCURRENT_REQUESTS: a counting semaphore with a bounded first-in-first-out queue.
 *
 * The struct is the caller's memory; waiters lie inside the requests that wait and must leave
 * before those are freed.
 *
 * One thread (the loop). */
#ifndef FORWARDER_PERMITS_H
#define FORWARDER_PERMITS_H

#include "list.h"

enum permit_state { PERMIT_NONE, PERMIT_WAITING, PERMIT_HELD };

struct permit {
    struct link link;
    enum permit_state state;
    int64_t expires_ms; /* while waiting */
};

struct permits {
    struct list waiting;
    size_t max, held, queued; /* as many may wait as may be held */
};

void
permits_init(struct permits *permits, size_t max);
void
permit_init(struct permit *permit);
/* HELD, WAITING, or NONE when the queue is full. */
enum permit_state
permits_ask(struct permits *permits, struct permit *permit, int64_t expires_ms);
/* Gives back whatever the permit is (held, waiting or nothing).  Returns the waiter that now holds
 * one, or NULL. */
struct permit *
permits_give_back(struct permits *permits, struct permit *permit);
/* The first waiter whose time is over, taken out of the queue; NULL when there is none. */
struct permit *
permits_take_expired(struct permits *permits, int64_t now_ms);
/* When the next waiter expires; CLOCK_NEVER. */
int64_t
permits_next_expiry_ms(const struct permits *permits);

#endif
