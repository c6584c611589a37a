/* A mutex that knows its owner in debug builds.
 *
 * The struct is the caller's memory.
 *
 * Any thread; at most one lock is held at a time, and never while a callback or a system call other
 * than write(2) runs. */
#ifndef FORWARDER_LOCK_H
#define FORWARDER_LOCK_H

#include <pthread.h>

#include "base.h"

struct lock {
    pthread_mutex_t mutex;
#ifndef NDEBUG
    _Atomic bool held;
    pthread_t owner;
#endif
};

static inline void
lock_init(struct lock *lock)
{
    int rc = pthread_mutex_init(&lock->mutex, NULL);
    assert(rc == 0);
    (void)rc;
#ifndef NDEBUG
    lock->held = false;
#endif
}

static inline void
lock_fini(struct lock *lock)
{
    pthread_mutex_destroy(&lock->mutex);
}

static inline void
lock_take(struct lock *lock)
{
    int rc = pthread_mutex_lock(&lock->mutex);
    assert(rc == 0);
    (void)rc;
#ifndef NDEBUG
    lock->owner = pthread_self();
    lock->held = true;
#endif
}

static inline void
lock_drop(struct lock *lock)
{
#ifndef NDEBUG
    lock->held = false;
#endif
    pthread_mutex_unlock(&lock->mutex);
}

/* For functions named …_locked. */
static inline void
lock_assert_held(struct lock *lock)
{
#ifndef NDEBUG
    assert(lock->held && pthread_equal(lock->owner, pthread_self()));
#else
    (void)lock;
#endif
}

#endif
