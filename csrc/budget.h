/* Time that a piece of work may take on this thread, read now and then while it is done.
 *
 * The struct is the caller's memory and owns nothing.
 *
 * One thread at a time. */
#ifndef FORWARDER_BUDGET_H
#define FORWARDER_BUDGET_H

#include "base.h"

struct budget {
    int64_t total_ns, left_ns;
    int64_t started_ns;   /* of the stretch that is timed; by the monotonic clock */
    int64_t cpu_ns;       /* CPU time of the thread when the total was first used up; -1: not yet */
};

void budget_init(struct budget *budget, int64_t total_ns);
/* What lies between the two is charged, and returned. */
void budget_start(struct budget *budget);
int64_t budget_stop(struct budget *budget);
/* The monotonic clock is cheap to read but goes on while others have the processor; only the thread's own time decides.
 * So the work may take twice the total of that. */
bool budget_is_spent(struct budget *budget);

#endif
