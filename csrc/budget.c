#include "budget.h"

#include <time.h>

static int64_t
read_clock(clockid_t clock)
{
    struct timespec now = {.tv_sec = 0};
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void
budget_init(struct budget *budget, int64_t total_ns)
{
    *budget = (struct budget){.total_ns = total_ns, .left_ns = total_ns, .cpu_ns = -1};
}

void
budget_start(struct budget *budget)
{
    budget->started_ns = read_clock(CLOCK_MONOTONIC);
}

int64_t
budget_stop(struct budget *budget)
{
    int64_t spent_ns = read_clock(CLOCK_MONOTONIC) - budget->started_ns;
    budget->left_ns -= spent_ns;
    return spent_ns;
}

bool
budget_is_spent(struct budget *budget)
{
    if (budget->left_ns > 0) {
        return false;
    }
    int64_t cpu_ns = read_clock(CLOCK_THREAD_CPUTIME_ID);
    if (budget->cpu_ns < 0) {
        budget->cpu_ns = cpu_ns;
    }
    budget->left_ns = budget->total_ns - (cpu_ns - budget->cpu_ns);
    return budget->left_ns <= 0;
}
