/* Activity records: what one says, and what to do with the backend's answer to it.
 *
 * Owns nothing.
 *
 * Any thread. */
#ifndef FORWARDER_ACTIVITY_H
#define FORWARDER_ACTIVITY_H

#include "base.h"

/* What the answer to a POST /activity means (DESIGN.md §6). */
enum activity_fate {
    ACTIVITY_DELIVERED, /* 2xx */
    ACTIVITY_RETRY,     /* no answer, 408, 409, 425, 429, 5xx, and 3xx, which we do not follow */
    ACTIVITY_PAUSE,     /* 401, 403, 404, 405: the whole delivery is set up wrongly */
    ACTIVITY_BURY,      /* any other 4xx: this record will never be taken */
};

/* status 0 is "no answer". */
enum activity_fate
activity_fate(int status);
/* One clause that says what an administrator should look at, for ACTIVITY_PAUSE; static storage. */
const char *
activity_pause_hint(int status);

#define ACTIVITY_BACKOFF_BASE_MS 500
/* Low, as only one post at a time goes to a backend that fails: it is found again within 5 s. */
#define ACTIVITY_BACKOFF_CAP_MS 4000
#define ACTIVITY_PAUSE_MS 15000

/* Full jitter: uniform in [0, min(cap, base * 2^attempt)], at least retry_after_ms where the
 * backend named one. */
int64_t
activity_backoff_ms(unsigned attempt, int64_t retry_after_ms);

#endif
