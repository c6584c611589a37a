/* What Python's re takes for equal where case does not count, for characters beyond ASCII.
 *
 * A constant table, owned by nobody.
 *
 * Any thread. */
#ifndef FORWARDER_CASING_H
#define FORWARDER_CASING_H

#include <stdint.h>

/* Each `step`th character from `low` to `high` equals the one `distance` further, which may be a
 * small letter of ASCII.  One that equals several is in several runs; one of ASCII is in none. */
struct case_run {
    uint32_t low, high, step;
    int32_t distance;
};

/* In no order; ends with a step of 0. */
extern const struct case_run case_runs[];

#endif
