#include "rules.h"

#include <stdatomic.h>
#include <string.h>

#include "dialect.h"
#include "mem.h"

/* One pattern, compiled; shared by all sets that hold it. */
struct code {
    atomic_size_t refs;
    struct regex *regex;
    uint64_t hash;
    size_t len;
    char *pattern;
};

struct rule {
    struct code *code; /* one reference */
    struct wire_id id;
};

struct rules {
    atomic_size_t refs;
    size_t count;
    struct rule *rules;  /* in list order */
    size_t mask;         /* slots - 1 */
    struct code **slots; /* open addressing by pattern; the references are the rules' */
};

struct rules_scratch {
    struct regex_scratch *regex;
};

/* --- patterns --- */

/* FNV-1a; it only chooses the slot. */
static uint64_t
hash_pattern(struct slice pattern)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < pattern.len; i++) {
        hash = (hash ^ (unsigned char)pattern.data[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 32;
}

static struct code *
code_ref(struct code *code)
{
    atomic_fetch_add_explicit(&code->refs, 1, memory_order_relaxed);
    return code;
}

static void
code_unref(struct code *code)
{
    if (code == NULL || atomic_fetch_sub_explicit(&code->refs, 1, memory_order_acq_rel) > 1) {
        return;
    }
    regex_destroy(code->regex);
    mem_free(code->pattern);
    mem_free(code);
}

static enum err
compile_rule(struct slice rule, struct regex **out, struct regex_error *error)
{
    struct dialect dialect;
    dialect_init(&dialect);
    enum err err = dialect_translate(&dialect, rule, 0, error);
    if (!err) {
        err = dialect_compile(&dialect, out, error);
    }
    dialect_fini(&dialect);
    return err;
}

static enum err
code_create(struct slice pattern, uint64_t hash, struct code **out, struct regex_error *error)
{
    struct code *code = mem_zalloc(sizeof *code);
    if (code == NULL) {
        return ERR_MEMORY;
    }
    atomic_init(&code->refs, 1);
    code->hash = hash;
    code->len = pattern.len;
    code->pattern = mem_copy(pattern.data, pattern.len);
    enum err err = code->pattern == NULL ? ERR_MEMORY : ERR_OK;
    if (!err) {
        err = compile_rule(pattern, &code->regex, error);
    }
    if (err) {
        code_unref(code);
        return err;
    }
    *out = code;
    return ERR_OK;
}

/* The slot that holds the pattern, or the empty one where it belongs. */
static struct code **
find_slot(const struct rules *rules, struct slice pattern, uint64_t hash)
{
    size_t i = hash & rules->mask;
    for (; rules->slots[i] != NULL; i = (i + 1) & rules->mask) {
        const struct code *code = rules->slots[i];
        if (code->hash == hash && code->len == pattern.len
            && memcmp(code->pattern, pattern.data, pattern.len) == 0) {
            break;
        }
    }
    return &rules->slots[i];
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
    rules->slots = mem_calloc(slots, sizeof(struct code *));
    if (rules->rules == NULL || rules->slots == NULL) {
        rules_unref(rules);
        return ERR_MEMORY;
    }
    *out = rules;
    return ERR_OK;
}

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
        code_unref(rules->rules[i].code);
        wire_id_fini(&rules->rules[i].id);
    }
    mem_free(rules->rules);
    mem_free(rules->slots);
    mem_free(rules);
}

size_t
rules_count(const struct rules *rules)
{
    return rules->count;
}

/* From this set, else from the previous one, else compiled. */
static enum err
find_code(struct rules *rules, const struct rules *previous, struct slice pattern,
          struct code **out, struct regex_error *error)
{
    uint64_t hash = hash_pattern(pattern);
    struct code **slot = find_slot(rules, pattern, hash);
    if (*slot != NULL) {
        *out = code_ref(*slot);
        return ERR_OK;
    }
    struct code *known = previous != NULL ? *find_slot(previous, pattern, hash) : NULL;
    if (known != NULL) {
        *slot = *out = code_ref(known);
        return ERR_OK;
    }
    enum err err = code_create(pattern, hash, out, error);
    if (!err) {
        *slot = *out;
    }
    return err;
}

/* ERR_INVALID: the pattern cannot be compiled. */
static enum err
add_rule(struct rules *rules, const struct rules *previous, const struct wire_rule *given,
         struct regex_error *error)
{
    struct rule *rule = &rules->rules[rules->count];
    struct slice pattern = {given->pattern, given->pattern_len};
    enum err err = find_code(rules, previous, pattern, &rule->code, error);
    if (err) {
        return err;
    }
    /* From here on rules_unref cleans up. */
    rules->count++;
    return wire_id_copy(&given->id, &rule->id);
}

static enum err
report_reject(struct rules_report *report, const struct wire_id *id,
              const struct regex_error *error)
{
    report->rejected++;
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

enum err
rules_build(const struct wire_rules *list, struct rules *previous, struct rules **out,
            struct rules_report *report)
{
    struct rules *rules;
    struct rules_report found = {.given = list->count};
    enum err err = create_empty(list->count, &rules);
    if (err) {
        return err;
    }
    for (size_t i = 0; i < list->count && !err; i++) {
        struct regex_error error;
        err = add_rule(rules, previous, &list->rules[i], &error);
        if (err == ERR_INVALID) {
            err = report_reject(&found, &list->rules[i].id, &error);
        }
    }
    if (err) {
        rules_unref(rules);
        rules_report_fini(&found);
        return err;
    }
    found.compiled = rules->count;
    *out = rules;
    *report = found;
    return ERR_OK;
}

void
rules_report_fini(struct rules_report *report)
{
    for (size_t i = 0; i < report->rejects_kept; i++) {
        wire_id_fini(&report->rejects[i].id);
    }
    mem_free(report->rejects);
    *report = (struct rules_report){.rejects = NULL};
}

/* --- matching --- */

struct rules_hit
rules_match(const struct rules *rules, struct slice subject, struct rules_scratch *scratch)
{
    for (size_t i = 0; i < rules->count; i++) {
        const struct rule *rule = &rules->rules[i];
        enum regex_outcome outcome = regex_search(rule->code->regex, subject, scratch->regex);
        if (outcome != REGEX_NO_MATCH) {
            return (struct rules_hit){
                .outcome = outcome == REGEX_MATCH ? RULES_MATCH : RULES_LIMIT,
                .id = &rule->id,
                .pattern = rule->code->pattern,
            };
        }
    }
    return (struct rules_hit){.outcome = RULES_NO_MATCH};
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
    mem_free(scratch);
}
