/* What a rule set says of a URL: both its forms are matched, the canonical one first.
 *
 * A desk owns its scratch.  What a verdict points to is borrowed from the rule set, to which the
 * caller must hold a reference of its own: others run while a long form is matched.
 *
 * Whoever holds what the desk's gate lets go of (in the gateway: the GIL). */
#ifndef FORWARDER_VERDICT_H
#define FORWARDER_VERDICT_H

#include "rules.h"
#include "url.h"

/* A longer form is matched outside of the gate. */
#define VERDICT_LONG 2048

/* Lets others run meanwhile: `enter` gets what `leave` has returned.  Both NULL: nobody waits. */
struct verdict_gate {
    void *(*leave)(void);
    void (*enter)(void *outside);
};

struct verdict_desk {
    struct verdict_gate gate;
    struct rules_scratch *scratch; /* NULL while it is in use */
};

struct verdict {
    struct rules_hit hit;
    bool of_raw; /* it is the raw form that was hit, the canonical one was not */
};

enum err
verdict_desk_init(struct verdict_desk *desk, const struct verdict_gate *gate) MUST_CHECK;
void
verdict_desk_fini(struct verdict_desk *desk);

/* Of one form.  Where memory is short nothing is known: a limit, which denies. */
struct rules_hit
verdict_of_form(struct verdict_desk *desk, const struct rules *rules, struct slice form);
struct verdict
verdict_of(struct verdict_desk *desk, const struct rules *rules, const struct url *url);

#endif
