/* Time and randomness: the monotonic clock for deadlines, the wall clock for records, random
 * numbers for jitter and ids.
 *
 * Owns nothing.  Tests can set the monotonic clock.
 *
 * Any thread. */
#ifndef FORWARDER_CLOCK_H
#define FORWARDER_CLOCK_H

#include "base.h"

/* "No deadline": later than any time the clock gives. */
#define CLOCK_NEVER INT64_MAX

/* CLOCK_MONOTONIC in milliseconds, the clock of Python's time.monotonic(). */
int64_t
clock_now_ms(void);
/* Seconds since 1970 as the activity contract wants them. */
double
clock_wall_seconds(void);
/* Uniform in [0, bound]; not for secrets. */
uint64_t
clock_random(uint64_t bound);
/* A version 4 UUID as 36 characters and a NUL (RFC 9562), from getrandom(2). */
#define CLOCK_UUID_SIZE 37
void
clock_uuid(char out[CLOCK_UUID_SIZE]);

#ifdef FORWARDER_FAULTS
/* Tests only: freezes clock_now_ms at this value; a negative one lets it run again. */
void
clock_set_ms(int64_t now_ms);
#endif

#endif
