#include "activity.h"

#include "clock.h"

enum activity_fate
activity_fate(int status)
{
    switch (status) {
    case 401:
    case 403:
    case 404:
    case 405:
        return ACTIVITY_PAUSE;
    case 408:
    case 409:
    case 425:
    case 429:
        return ACTIVITY_RETRY;
    }
    if (status >= 200 && status < 300) {
        return ACTIVITY_DELIVERED;
    }
    if (status >= 400 && status < 500) {
        return ACTIVITY_BURY;
    }
    return ACTIVITY_RETRY;
}

const char *
activity_pause_hint(int status)
{
    switch (status) {
    case 401:
        return "the backend does not know this SYSTEM_TOKEN";
    case 403:
        return "this SYSTEM_TOKEN may not write activity records";
    case 404:
        return "nothing there: look at FASTAPI_BASE_URL and FASTAPI_ACTIVITY_ENDPOINT";
    case 405:
        return "that path takes no POST: look at FASTAPI_ACTIVITY_ENDPOINT";
    }
    return "the backend takes no activity records";
}

/* base * 2^attempt, but never past the cap, whatever the attempt. */
static int64_t
backoff_limit_ms(unsigned attempt)
{
    int64_t limit_ms = ACTIVITY_BACKOFF_BASE_MS;
    while (attempt > 0 && limit_ms < ACTIVITY_BACKOFF_CAP_MS) {
        limit_ms *= 2;
        attempt--;
    }
    return limit_ms < ACTIVITY_BACKOFF_CAP_MS ? limit_ms : ACTIVITY_BACKOFF_CAP_MS;
}

int64_t
activity_backoff_ms(unsigned attempt, int64_t retry_after_ms)
{
    int64_t chosen_ms = (int64_t)clock_random((uint64_t)backoff_limit_ms(attempt));
    return chosen_ms > retry_after_ms ? chosen_ms : retry_after_ms;
}
