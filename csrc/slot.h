/* Slots: the numbered directories of a spool, of which each process holds one by a file lock.
 *
 * A struct slot owns its path and the descriptor of the lock; the lock ends with it, or with the
 * process.  What lies in a slot that nobody holds belongs to whoever takes it next.
 *
 * One thread at a time. */
#ifndef FORWARDER_SLOT_H
#define FORWARDER_SLOT_H

#include "base.h"

#define SLOTS_MAX 1024
#define SLOT_MESSAGE_SIZE 256

struct slot {
    char *path; /* NULL: none */
    int lock_fd;
};

/* Takes the lowest slot that nobody holds, and makes it where it is not there. */
enum err slot_take(const char *directory, struct slot *out,
                   char message[SLOT_MESSAGE_SIZE]) MUST_CHECK;
/* Takes a slot with a higher or equal number that is there and that nobody holds; *number is set to
 * the one after it.  ERR_MISSING: there is none. */
enum err slot_take_orphan(const char *directory, int *number, struct slot *out) MUST_CHECK;
void slot_release(struct slot *slot);

/* "DIRECTORY/NAME", for mem_free. */
enum err slot_join_path(const char *directory, const char *name, char **out) MUST_CHECK;

#endif
