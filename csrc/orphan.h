/* Slots whose process is dead: what they hold becomes ours, one bounded step after the other.
 *
 * A struct orphan owns the slot that it is in, with its lock, and what is open of it; the database
 * that takes the records is the caller's.  What a call has to say is added to the caller's line.
 *
 * One thread at a time.  Calls may wait for the disk. */
#ifndef FORWARDER_ORPHAN_H
#define FORWARDER_ORPHAN_H

#include "mover.h"
#include "slot.h"

struct orphan {
    struct slot slot; /* path is NULL: none */
    struct leftovers journals;
    struct database *database; /* NULL: not opened yet */
    int next;                  /* slots below were looked at in this round */
    bool failed;               /* said so already */
};

void orphan_init(struct orphan *orphan);
/* What was not taken over stays in the slot, for whoever comes next. */
void orphan_let_go(struct orphan *orphan);
/* Looks for a slot of `directory` that nobody holds, or goes on with the one it has; *more: call
 * again soon.  A failure is said once, until something is taken over again. */
enum err orphan_adopt(struct orphan *orphan, const char *directory, struct database *into,
                      bool *more, struct mover_line *line) MUST_CHECK;

#endif
