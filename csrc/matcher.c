#include "matcher.h"

#include <string.h>

#include "literals.h"
#include "mem.h"
#include "probe.h"
#include "risk.h"

/* Places between two looks at the clock, of which each may take 16 us at worst.  More while they take next to nothing. */
#define PLACES_FIRST 32
#define PLACES_MAX 128
#define NEXT_TO_NOTHING_NS 4000

enum err
matcher_maker_init(struct matcher_maker *maker)
{
    enum err err = regex_scratch_create(&maker->scratch);
    if (!err) {
        dialect_init(&maker->dialect);
    }
    return err;
}

void
matcher_maker_fini(struct matcher_maker *maker)
{
    regex_scratch_destroy(maker->scratch);
    dialect_fini(&maker->dialect);
}

/* It only chooses a slot of a table: two rounds of multiplication for each eight bytes. */
uint64_t
matcher_hash(struct slice pattern)
{
    uint64_t hash = pattern.len * UINT64_C(0x9E3779B97F4A7C15);
    while (pattern.len > 0) {
        uint64_t word = 0;
        size_t len = pattern.len < sizeof word ? pattern.len : sizeof word;
        memcpy(&word, pattern.data, len);
        hash = (hash ^ word) * UINT64_C(0xD6E8FEB86659FD93);
        hash ^= hash >> 32;
        pattern.data += len;
        pattern.len -= len;
    }
    return hash * UINT64_C(0xD6E8FEB86659FD93);
}

struct matcher *
matcher_ref(struct matcher *matcher)
{
    atomic_fetch_add_explicit(&matcher->refs, 1, memory_order_relaxed);
    return matcher;
}

void
matcher_unref(struct matcher *matcher)
{
    if (matcher == NULL || atomic_fetch_sub_explicit(&matcher->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    regex_destroy(matcher->regex);
    mem_free(matcher);
}

/* --- making one --- */

static struct matcher *
allocate(struct slice pattern, const struct literals *literals)
{
    uint8_t packed[LITERALS_PACKED_MAX];
    size_t packed_len = literals_pack(literals, packed);
    struct matcher *matcher = mem_zalloc(sizeof *matcher + pattern.len + 1 + packed_len);
    if (matcher == NULL) {
        return NULL;
    }
    atomic_init(&matcher->refs, 1);
    matcher->hash = matcher_hash(pattern);
    matcher->len = (uint32_t)pattern.len;
    matcher->always = literals->best.count == 0;
    if (pattern.len > 0) {
        memcpy(matcher->bytes, pattern.data, pattern.len);
    }
    memcpy(matcher->bytes + pattern.len + 1, packed, packed_len);
    return matcher;
}

/* URLs that have nothing in common but a scheme, which is not always the same. */
static bool
matches_everything(struct matcher *matcher, struct regex_scratch *scratch)
{
    static const struct slice urls[] = {
        SLICE_LITERAL("http://a.test/"),
        SLICE_LITERAL("https://www.example.com/index.html?b=1&c=%2F"),
        SLICE_LITERAL("http://192.0.2.1:8080/~d/e_f.g-h/"),
    };
    struct budget budget;
    budget_init(&budget, PROBE_BUDGET_NS);
    for (size_t i = 0; i < COUNT_OF(urls); i++) {
        if (matcher_search(matcher, urls[i], &budget, scratch) != REGEX_MATCH) {
            return false;
        }
    }
    return true;
}

static bool
is_dangerous(struct matcher *matcher, const struct literals *literals, struct matcher_maker *maker)
{
    struct probe probe;
    struct slice subject;
    probe_init(&probe, &maker->dialect.pattern, &literals->best);
    while (probe_next(&probe, &subject)) {
        struct budget budget;
        budget_init(&budget, PROBE_BUDGET_NS);
        if (matcher_search(matcher, subject, &budget, maker->scratch) == REGEX_LIMIT) {
            return true;
        }
    }
    return false;
}

enum err
matcher_create(struct matcher_maker *maker, struct slice pattern, struct matcher **out, struct regex_error *error)
{
    struct literals literals;
    enum err err = dialect_translate(&maker->dialect, pattern, 0, error);
    if (err) {
        return err;
    }
    bool suspect = risk_bits(&maker->dialect.pattern) > RISK_HARMLESS_BITS;
    literals_find(&maker->dialect.pattern, &literals);
    struct matcher *matcher = allocate(pattern, &literals);
    if (matcher == NULL) {
        return ERR_MEMORY;
    }
    maker->dialect.options.by_range = suspect;
    err = dialect_compile(&maker->dialect, &matcher->regex, error);
    if (err) {
        matcher_unref(matcher);
        return err;
    }
    matcher->suspect = suspect;
    matcher->everything = matcher->always && matches_everything(matcher, maker->scratch);
    matcher->quarantined = suspect && is_dangerous(matcher, &literals, maker);
    *out = matcher;
    return ERR_OK;
}

/* --- searching --- */

enum regex_outcome
matcher_search(struct matcher *matcher, struct slice subject, struct budget *budget, struct regex_scratch *scratch)
{
    if (!matcher->suspect) {
        return regex_search(matcher->regex, subject, scratch);
    }
    enum regex_effort effort = matcher->quarantined ? REGEX_BRIEF : REGEX_FULL;
    size_t first = 0, places = PLACES_FIRST;
    while (first <= subject.len) {
        if (budget_is_spent(budget)) {
            return REGEX_LIMIT;
        }
        budget_start(budget);
        enum regex_outcome outcome =
            regex_search_range(matcher->regex, subject, first, places, effort, scratch);
        int64_t spent_ns = budget_stop(budget);
        if (outcome != REGEX_NO_MATCH) {
            return outcome;
        }
        first += places;
        places = spent_ns < NEXT_TO_NOTHING_NS ? PLACES_MAX : PLACES_FIRST;
    }
    return REGEX_NO_MATCH;
}
