#include "verdict.h"

#include <string.h>

struct verdict
verdict_of(const struct rules *rules, const struct url *url, struct rules_scratch *scratch)
{
    struct slice raw = buf_slice(&url->raw), canonical = buf_slice(&url->canonical);
    struct verdict verdict = {.hit = rules_match(rules, canonical, scratch)};
    bool same = raw.len == canonical.len && memcmp(raw.data, canonical.data, raw.len) == 0;
    if (verdict.hit.outcome == RULES_NO_MATCH && !same) {
        verdict.hit = rules_match(rules, raw, scratch);
        verdict.of_raw = verdict.hit.outcome != RULES_NO_MATCH;
    }
    return verdict;
}
