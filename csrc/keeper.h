/* Keeps the list in force on disk (last_good.h): writes on a thread of its own, so that no rule set
 * and no call waits for a disk.
 *
 * The struct is the caller's memory and owns the thread and the list that is being written;
 * directory and source are borrowed for its life.
 *
 * The reactor; init, join and fini also the loop, before the reactor runs and after it stopped. */
#ifndef FORWARDER_KEEPER_H
#define FORWARDER_KEEPER_H

#include <pthread.h>
#include <stdatomic.h>

#include "event.h"
#include "last_good.h"

struct keeper {
    const char *directory, *source; /* directory NULL: nothing is kept */
    struct mailbox *outbox;
    pthread_t thread;
    bool started;        /* and not joined yet */
    atomic_bool busy;    /* the thread has not done its work */
    atomic_bool current; /* what is on disk is the list in force */
    bool touches;        /* the work: only the date */
    struct buf body;
    char etag[HTTP_ETAG_SIZE];
};

void
keeper_init(struct keeper *keeper, const char *directory, const char *source,
            struct mailbox *outbox);
/* Moves the body out.  While the last write still runs, which a healthy disk has done long ago, the
 * list is not kept and a warning says so. */
void
keeper_save(struct keeper *keeper, struct buf *body, const char *etag);
/* The backend has said that the list in force still is its list. */
void
keeper_confirm(struct keeper *keeper);
/* The list in force came from there. */
void
keeper_note_loaded(struct keeper *keeper);
/* Is the list in force on disk, or on its way?  If not the backend should be asked for all of it.
 */
bool
keeper_is_current(const struct keeper *keeper);
/* Waits for the write that runs. */
void
keeper_join(struct keeper *keeper);

#endif
