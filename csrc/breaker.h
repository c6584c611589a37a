/* A circuit breaker for the backend: opens after failures in a row, lets one probe a second
 * through, closes on success.
 *
 * The struct is the caller's memory and holds no resources.
 *
 * One thread (the reactor); breaker_is_open: any thread. */
#ifndef FORWARDER_BREAKER_H
#define FORWARDER_BREAKER_H

#include <stdatomic.h>

#include "base.h"

#define BREAKER_FAILURES 5
#define BREAKER_PROBE_MS 1000

struct breaker {
    atomic_uint failures;  /* in a row */
    int64_t next_probe_ms; /* while open: when the next probe may go */
};

void
breaker_init(struct breaker *breaker);
/* May a call go out now?  While open, true at most once every BREAKER_PROBE_MS. */
bool
breaker_allows(struct breaker *breaker, int64_t now_ms);
bool
breaker_is_open(const struct breaker *breaker);
void
breaker_succeeded(struct breaker *breaker);
void
breaker_failed(struct breaker *breaker, int64_t now_ms);

#endif
