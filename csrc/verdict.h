/* What a rule set says of a URL: both its forms are matched, the canonical one first.
 *
 * Owns nothing; what a verdict points to is borrowed from the rule set.
 *
 * Any thread; a scratch one at a time. */
#ifndef FORWARDER_VERDICT_H
#define FORWARDER_VERDICT_H

#include "rules.h"
#include "url.h"

struct verdict {
    struct rules_hit hit;
    bool of_raw; /* it is the raw form that was hit, the canonical one was not */
};

struct verdict
verdict_of(const struct rules *rules, const struct url *url, struct rules_scratch *scratch);

#endif
