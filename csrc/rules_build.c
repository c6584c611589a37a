#include <string.h>

#include "mem.h"
#include "rules_state.h"

/* Numbers go into the index, and one more than them into the slots. */
#define RULES_MAX INDEX_ITEM_MAX

struct building {
    struct rules *rules, *previous;
    struct matcher_maker maker;
    size_t guess; /* where the next pattern stands in `previous` if little has changed */
};

static struct slice
pattern_of(const struct wire_rule *rule)
{
    return (struct slice){rule->pattern, rule->pattern_len};
}

/* --- the report --- */

void
rules_report_fini(struct rules_report *report)
{
    for (size_t i = 0; i < report->rejects_kept; i++) {
        wire_id_fini(&report->rejects[i].id);
    }
    mem_free(report->rejects);
    *report = (struct rules_report){.rejects = NULL};
}

static enum err
keep_reject(struct rules_report *report, const struct wire_id *id, const struct regex_error *error)
{
    if (report->rejects_kept == RULES_REJECTS_KEPT) {
        return ERR_OK;
    }
    if (report->rejects == NULL) {
        report->rejects = mem_calloc(RULES_REJECTS_KEPT, sizeof *report->rejects);
        if (report->rejects == NULL) {
            return ERR_MEMORY;
        }
    }
    struct rules_reject *reject = &report->rejects[report->rejects_kept];
    enum err err = wire_id_copy(id, &reject->id);
    if (!err) {
        reject->error = *error;
        report->rejects_kept++;
    }
    return err;
}

static enum err
copy_report(const struct rules_report *from, struct rules_report *to)
{
    struct rules_report copy = *from;
    enum err err = ERR_OK;
    copy.rejects = NULL;
    copy.rejects_kept = 0;
    for (size_t i = 0; i < from->rejects_kept && !err; i++) {
        err = keep_reject(&copy, &from->rejects[i].id, &from->rejects[i].error);
    }
    if (err) {
        rules_report_fini(&copy);
        return err;
    }
    *to = copy;
    return ERR_OK;
}

static void
count_rules(struct rules *rules)
{
    struct rules_report *report = &rules->report;
    report->compiled = rules->count;
    for (size_t i = 0; i < rules->count; i++) {
        const struct rule *rule = &rules->rules[i];
        if (rule->first != i) {
            report->duplicates++;
            continue;
        }
        report->always += rule->matcher->always;
        report->everything += rule->matcher->everything;
        report->quarantined += rule->matcher->quarantined;
    }
}

/* --- rules --- */

static bool
has_pattern(const struct matcher *matcher, struct slice pattern, uint64_t hash)
{
    return matcher->hash == hash && matcher->len == pattern.len
           && memcmp(matcher->bytes, pattern.data, pattern.len) == 0;
}

/* The slot that holds the first rule with this pattern, or the empty one where it belongs. */
static uint32_t *
find_slot(const struct rules *rules, struct slice pattern, uint64_t hash)
{
    size_t i = (hash >> 32) & rules->mask;
    while (rules->slots[i] != 0 && !has_pattern(rules->rules[rules->slots[i] - 1].matcher, pattern, hash)) {
        i = (i + 1) & rules->mask;
    }
    return &rules->slots[i];
}

/* From the previous set; NULL: it has no such pattern. */
static struct matcher *
find_previous(struct building *building, struct slice pattern, uint64_t hash)
{
    const struct rules *previous = building->previous;
    if (previous == NULL) {
        return NULL;
    }
    size_t at = building->guess;
    if (at >= previous->count || !has_pattern(previous->rules[at].matcher, pattern, hash)) {
        uint32_t number = *find_slot(previous, pattern, hash);
        if (number == 0) {
            return NULL;
        }
        at = number - 1;
    }
    building->guess = at + 1;
    return matcher_ref(previous->rules[at].matcher);
}

/* ERR_INVALID: the pattern cannot be compiled. */
static enum err
add_rule(struct building *building, const struct wire_rule *given, struct regex_error *error)
{
    struct rules *rules = building->rules;
    struct rule *rule = &rules->rules[rules->count];
    struct slice pattern = pattern_of(given);
    uint64_t hash = matcher_hash(pattern);
    uint32_t *slot = find_slot(rules, pattern, hash);
    if (*slot != 0) {
        rule->first = *slot - 1;
        rule->matcher = matcher_ref(rules->rules[rule->first].matcher);
    }
    else {
        rule->matcher = find_previous(building, pattern, hash);
        enum err err = rule->matcher != NULL
                           ? ERR_OK
                           : matcher_create(&building->maker, pattern, &rule->matcher, error);
        if (err) {
            return err;
        }
        rule->first = (uint32_t)rules->count;
        *slot = rule->first + 1;
    }
    /* From here on rules_unref cleans up. */
    rules->count++;
    return wire_id_copy(&given->id, &rule->id);
}

static enum err
add_rules(struct building *building, const struct wire_rules *list)
{
    struct rules_report *report = &building->rules->report;
    enum err err = ERR_OK;
    for (size_t i = 0; i < list->count && !err; i++) {
        struct regex_error error;
        err = add_rule(building, &list->rules[i], &error);
        if (err == ERR_INVALID) {
            report->rejected++;
            err = keep_reject(report, &list->rules[i].id, &error);
        }
    }
    return err;
}

/* Each pattern once, either to the index or to those that are always tried. */
static enum err
index_rules(struct rules *rules)
{
    enum err err = ERR_OK;
    size_t count = 0;
    struct index_input *inputs = mem_calloc(rules->count, sizeof *inputs);
    rules->always = mem_calloc(rules->report.always, sizeof *rules->always);
    if (inputs == NULL || rules->always == NULL) {
        err = ERR_MEMORY;
        goto done;
    }
    for (size_t i = 0; i < rules->count; i++) {
        const struct rule *rule = &rules->rules[i];
        if (rule->first != i) {
            continue;
        }
        if (rule->matcher->always) {
            rules->always[rules->always_count++] = (uint32_t)i;
        }
        else {
            inputs[count++] = (struct index_input){(uint32_t)i, matcher_literals(rule->matcher)};
        }
    }
    if (count > 0) {
        err = index_build(inputs, count, &rules->index);
    }
done:
    mem_free(inputs);
    return err;
}

/* What was taken over has its counts from before. */
static void
note_counted(const struct rules *rules)
{
    for (size_t i = 0; i < rules->count; i++) {
        const struct rule *rule = &rules->rules[i];
        if (rule->first == i && atomic_load(&rule->matcher->hits) + atomic_load(&rule->matcher->limits) > 0) {
            rules_note(rules, (uint32_t)i);
        }
    }
}

/* --- sets --- */

static enum err
create_empty(size_t room, struct rules **out)
{
    /* At most half of the slots are taken, so that a search always ends. */
    size_t slots = 2;
    while (slots / 2 < room) {
        slots *= 2;
    }
    struct rules *rules = mem_zalloc(sizeof *rules);
    if (rules == NULL) {
        return ERR_MEMORY;
    }
    atomic_init(&rules->refs, 1);
    rules->mask = slots - 1;
    rules->rules = mem_calloc(room, sizeof *rules->rules);
    rules->slots = mem_calloc(slots, sizeof *rules->slots);
    rules->counted = mem_zalloc(sizeof *rules->counted);
    if (rules->rules == NULL || rules->slots == NULL || rules->counted == NULL) {
        rules_unref(rules);
        return ERR_MEMORY;
    }
    *out = rules;
    return ERR_OK;
}

/* Of all that the set depends on.  Another list with the same one would have to be made by the backend on purpose, and
 * there it is easier to leave the rule away. */
static uint64_t
fingerprint_of(const struct wire_rules *list)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < list->count; i++) {
        const struct wire_id *id = &list->rules[i].id;
        uint64_t id_hash = id->kind == WIRE_ID_STRING ? matcher_hash((struct slice){id->string, strlen(id->string)})
                                                      : (uint64_t)id->integer;
        uint64_t parts[] = {hash, id->kind, id_hash, matcher_hash(pattern_of(&list->rules[i]))};
        hash = matcher_hash((struct slice){(const char *)parts, sizeof parts});
    }
    return hash;
}

enum err
rules_build(const struct wire_rules *list, struct rules *previous, struct rules **out, struct rules_report *report)
{
    struct building building = {.previous = previous};
    uint64_t fingerprint = fingerprint_of(list);
    if (previous != NULL && previous->fingerprint == fingerprint && previous->report.given == list->count) {
        enum err err = copy_report(&previous->report, report);
        if (!err) {
            *out = rules_ref(previous);
        }
        return err;
    }
    enum err err = list->count > RULES_MAX ? ERR_LIMIT : create_empty(list->count, &building.rules);
    if (err) {
        return err;
    }
    building.rules->fingerprint = fingerprint;
    building.rules->report.given = list->count;
    err = matcher_maker_init(&building.maker);
    if (err) {
        goto done;
    }
    err = add_rules(&building, list);
    matcher_maker_fini(&building.maker);
    if (!err) {
        count_rules(building.rules);
        note_counted(building.rules);
        err = index_rules(building.rules);
    }
    if (!err) {
        err = copy_report(&building.rules->report, report);
    }
    if (!err) {
        *out = building.rules;
        building.rules = NULL;
    }
done:
    rules_unref(building.rules);
    return err;
}
