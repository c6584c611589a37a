#include "verdict.h"

#include <string.h>

enum err
verdict_desk_init(struct verdict_desk *desk, const struct verdict_gate *gate)
{
    *desk = (struct verdict_desk){.gate = *gate};
    return rules_scratch_create(&desk->scratch);
}

void
verdict_desk_fini(struct verdict_desk *desk)
{
    rules_scratch_destroy(desk->scratch);
    desk->scratch = NULL;
}

struct rules_hit
verdict_of_form(struct verdict_desk *desk, const struct rules *rules, struct slice form)
{
    /* Whoever comes to the desk meanwhile finds it without a scratch, and makes one. */
    struct rules_scratch *scratch = desk->scratch;
    desk->scratch = NULL;
    if (scratch == NULL && rules_scratch_create(&scratch)) {
        return (struct rules_hit){.outcome = RULES_LIMIT};
    }
    bool apart = form.len > VERDICT_LONG && desk->gate.leave != NULL;
    void *outside = apart ? desk->gate.leave() : NULL;
    struct rules_hit hit = rules_match(rules, form, scratch);
    if (apart) {
        desk->gate.enter(outside);
    }
    if (desk->scratch == NULL) {
        desk->scratch = scratch;
    }
    else {
        rules_scratch_destroy(scratch);
    }
    return hit;
}

struct verdict
verdict_of(struct verdict_desk *desk, const struct rules *rules, const struct url *url)
{
    struct slice raw = buf_slice(&url->raw), canonical = buf_slice(&url->canonical);
    struct verdict verdict = {.hit = verdict_of_form(desk, rules, canonical)};
    bool same = raw.len == canonical.len && memcmp(raw.data, canonical.data, raw.len) == 0;
    if (verdict.hit.outcome == RULES_NO_MATCH && !same) {
        verdict.hit = verdict_of_form(desk, rules, raw);
        verdict.of_raw = verdict.hit.outcome != RULES_NO_MATCH;
    }
    return verdict;
}
