#include "permits.h"

#include "clock.h"

/* While somebody waits, every permit is held: a free one never passes over the queue. */
static void
assert_sound(const struct permits *permits)
{
    assert(permits->held <= permits->max && permits->queued <= permits->max);
    assert(list_is_empty(&permits->waiting) == (permits->queued == 0));
    assert(permits->queued == 0 || permits->held == permits->max);
    (void)permits;
}

static struct permit *
permit_of(struct link *link)
{
    return LIST_ENTRY(link, struct permit, link);
}

static void
leave_queue(struct permits *permits, struct permit *permit, enum permit_state state)
{
    assert(permit->state == PERMIT_WAITING);
    link_remove(&permit->link);
    permits->queued--;
    permit->state = state;
}

void
permits_init(struct permits *permits, size_t max)
{
    assert(max > 0);
    *permits = (struct permits){.max = max};
    list_init(&permits->waiting);
}

void
permit_init(struct permit *permit)
{
    *permit = (struct permit){.state = PERMIT_NONE};
    link_init(&permit->link);
}

enum permit_state
permits_ask(struct permits *permits, struct permit *permit, int64_t expires_ms)
{
    assert_sound(permits);
    assert(permit->state == PERMIT_NONE);
    if (permits->held < permits->max) {
        permits->held++;
        permit->state = PERMIT_HELD;
    }
    else if (permits->queued < permits->max) {
        permits->queued++;
        permit->state = PERMIT_WAITING;
        permit->expires_ms = expires_ms;
        list_push_back(&permits->waiting, &permit->link);
    }
    return permit->state;
}

/* A permit changes hands without ever being free, so nobody who asks meanwhile can overtake. */
static struct permit *
pass_on(struct permits *permits)
{
    if (list_is_empty(&permits->waiting)) {
        permits->held--;
        return NULL;
    }
    struct permit *next = permit_of(permits->waiting.head.next);
    leave_queue(permits, next, PERMIT_HELD);
    return next;
}

struct permit *
permits_give_back(struct permits *permits, struct permit *permit)
{
    struct permit *next = NULL;
    assert_sound(permits);
    switch (permit->state) {
    case PERMIT_NONE:
        break;
    case PERMIT_WAITING:
        leave_queue(permits, permit, PERMIT_NONE);
        break;
    case PERMIT_HELD:
        permit->state = PERMIT_NONE;
        next = pass_on(permits);
        break;
    }
    assert_sound(permits);
    return next;
}

struct permit *
permits_take_expired(struct permits *permits, int64_t now_ms)
{
    LIST_FOR_EACH (link, &permits->waiting) {
        struct permit *permit = permit_of(link);
        if (permit->expires_ms <= now_ms) {
            leave_queue(permits, permit, PERMIT_NONE);
            return permit;
        }
    }
    return NULL;
}

int64_t
permits_next_expiry_ms(const struct permits *permits)
{
    int64_t next_ms = CLOCK_NEVER;
    LIST_FOR_EACH (link, &permits->waiting) {
        int64_t expires_ms = permit_of(link)->expires_ms;
        if (expires_ms < next_ms) {
            next_ms = expires_ms;
        }
    }
    return next_ms;
}
