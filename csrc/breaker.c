#include "breaker.h"

void
breaker_init(struct breaker *breaker)
{
    atomic_store(&breaker->failures, 0);
    breaker->next_probe_ms = 0;
}

bool
breaker_is_open(const struct breaker *breaker)
{
    return atomic_load(&breaker->failures) >= BREAKER_FAILURES;
}

bool
breaker_allows(struct breaker *breaker, int64_t now_ms)
{
    if (!breaker_is_open(breaker)) {
        return true;
    }
    if (now_ms < breaker->next_probe_ms) {
        return false;
    }
    breaker->next_probe_ms = now_ms + BREAKER_PROBE_MS;
    return true;
}

void
breaker_succeeded(struct breaker *breaker)
{
    breaker_init(breaker);
}

void
breaker_failed(struct breaker *breaker, int64_t now_ms)
{
    /* Calls that were under way when it opened still come in as failures; they must not put off the
     * next probe. */
    if (breaker_is_open(breaker)) {
        return;
    }
    atomic_fetch_add(&breaker->failures, 1);
    if (breaker_is_open(breaker)) {
        breaker->next_probe_ms = now_ms + BREAKER_PROBE_MS;
    }
}
