#include "rules.h"

#include "mem.h"
#include "rules_state.h"

/* For all suspect rules together, and for all quarantined ones; see budget.h for what is allowed in the end. */
#define SUSPECT_BUDGET_NS (1000 * 1000)
#define QUARANTINE_BUDGET_NS (250 * 1000)

struct rules_scratch {
    struct regex_scratch *regex;
    struct index_scratch index;
};

/* --- sets --- */

struct rules *
rules_ref(struct rules *rules)
{
    atomic_fetch_add_explicit(&rules->refs, 1, memory_order_relaxed);
    return rules;
}

void
rules_unref(struct rules *rules)
{
    if (rules == NULL || atomic_fetch_sub_explicit(&rules->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    for (size_t i = 0; i < rules->count; i++) {
        matcher_unref(rules->rules[i].matcher);
        wire_id_fini(&rules->rules[i].id);
    }
    mem_free(rules->rules);
    mem_free(rules->slots);
    mem_free(rules->always);
    mem_free(rules->counted);
    index_destroy(rules->index);
    rules_report_fini(&rules->report);
    mem_free(rules);
}

size_t
rules_count(const struct rules *rules)
{
    return rules->count;
}

void
rules_get(const struct rules *rules, size_t at, struct rules_info *out)
{
    const struct rule *rule = &rules->rules[at];
    const struct matcher *matcher = rule->matcher;
    *out = (struct rules_info){
        .id = &rule->id,
        .pattern = matcher->bytes,
        .hits = atomic_load_explicit(&matcher->hits, memory_order_relaxed),
        .limits = atomic_load_explicit(&matcher->limits, memory_order_relaxed),
        .first = rule->first,
        .always = matcher->always,
        .everything = matcher->everything,
        .quarantined = matcher->quarantined,
    };
}

const struct rules_report *
rules_summary(const struct rules *rules)
{
    return &rules->report;
}

/* --- rules that have decided something --- */

void
rules_note(const struct rules *rules, uint32_t number)
{
    struct rule *rule = &rules->rules[number];
    struct rules_counted *counted = rules->counted;
    /* The load first: a rule that is hit all the time is nothing to write about. */
    if (atomic_load_explicit(&rule->counted, memory_order_relaxed) || atomic_exchange(&rule->counted, true)) {
        return;
    }
    size_t at = atomic_fetch_add(&counted->count, 1);
    if (at < RULES_COUNTED_MAX) {
        atomic_store(&counted->numbers[at], number + 1);
    }
}

size_t
rules_counted(const struct rules *rules)
{
    return atomic_load(&rules->counted->count);
}

size_t
rules_counted_places(const struct rules *rules, size_t places[RULES_COUNTED_MAX])
{
    size_t noted = rules_counted(rules), count = 0;
    for (size_t i = 0; i < noted && i < RULES_COUNTED_MAX; i++) {
        uint32_t number = atomic_load(&rules->counted->numbers[i]);
        if (number > 0) {
            places[count++] = number - 1;
        }
    }
    return count;
}

/* --- matching --- */

/* The rules to try, in list order: those that the index names, and those that are not in it. */
struct walk {
    const uint32_t *found, *always;
    size_t found_left, always_left;
};

static bool
walk_next(struct walk *walk, uint32_t *number)
{
    if (walk->found_left == 0 && walk->always_left == 0) {
        return false;
    }
    if (walk->always_left == 0 || (walk->found_left > 0 && *walk->found < *walk->always)) {
        *number = *walk->found++;
        walk->found_left--;
    }
    else {
        *number = *walk->always++;
        walk->always_left--;
    }
    return true;
}

/* Tries either the quarantined rules of the walk or the others; says whether there were some of the other kind. */
static struct rules_hit
try_rules(const struct rules *rules, struct walk walk, bool quarantined, bool *others,
          struct slice subject, struct regex_scratch *scratch)
{
    struct budget budget;
    uint32_t number;
    budget_init(&budget, quarantined ? QUARANTINE_BUDGET_NS : SUSPECT_BUDGET_NS);
    *others = false;
    while (walk_next(&walk, &number)) {
        const struct rule *rule = &rules->rules[number];
        struct matcher *matcher = rule->matcher;
        if (matcher->quarantined != quarantined) {
            *others = true;
            continue;
        }
        enum regex_outcome outcome = matcher_search(matcher, subject, &budget, scratch);
        if (outcome != REGEX_NO_MATCH) {
            bool matched = outcome == REGEX_MATCH;
            atomic_fetch_add_explicit(matched ? &matcher->hits : &matcher->limits, 1, memory_order_relaxed);
            rules_note(rules, number);
            return (struct rules_hit){
                .outcome = matched ? RULES_MATCH : RULES_LIMIT,
                .id = &rule->id,
                .pattern = matcher->bytes,
            };
        }
    }
    return (struct rules_hit){.outcome = RULES_NO_MATCH};
}

struct rules_hit
rules_match(const struct rules *rules, struct slice subject, struct rules_scratch *scratch)
{
    struct walk walk = {.always = rules->always, .always_left = rules->always_count};
    bool quarantined, others;
    if (rules->index != NULL
        && index_find(rules->index, subject, &scratch->index, &walk.found, &walk.found_left)) {
        return (struct rules_hit){.outcome = RULES_LIMIT}; /* nothing is known: deny */
    }
    struct rules_hit hit = try_rules(rules, walk, false, &quarantined, subject, scratch->regex);
    if (hit.outcome == RULES_NO_MATCH && quarantined) {
        hit = try_rules(rules, walk, true, &others, subject, scratch->regex);
    }
    return hit;
}

enum err
rules_scratch_create(struct rules_scratch **out)
{
    struct rules_scratch *scratch = mem_zalloc(sizeof *scratch);
    if (scratch == NULL) {
        return ERR_MEMORY;
    }
    enum err err = regex_scratch_create(&scratch->regex);
    if (err) {
        mem_free(scratch);
        return err;
    }
    index_scratch_init(&scratch->index);
    *out = scratch;
    return ERR_OK;
}

void
rules_scratch_destroy(struct rules_scratch *scratch)
{
    if (scratch == NULL) {
        return;
    }
    regex_scratch_destroy(scratch->regex);
    index_scratch_fini(&scratch->index);
    mem_free(scratch);
}
