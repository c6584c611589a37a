#include "keeper.h"

#include <errno.h>
#include <string.h>

void
keeper_init(struct keeper *keeper, const char *directory, const char *source,
            struct mailbox *outbox)
{
    *keeper = (struct keeper){.directory = directory, .source = source, .outbox = outbox};
    buf_init(&keeper->body, 0);
    atomic_init(&keeper->busy, false);
    /* Without a directory there is nothing to be out of date. */
    atomic_init(&keeper->current, directory == NULL);
}

static void
failed(struct keeper *keeper, const char *why)
{
    atomic_store(&keeper->current, false);
    event_notice(keeper->outbox, NOTICE_WARNING,
                 "The blacklist could not be kept in %s: %s; a restart without a backend would"
                 " enforce an older one, or none",
                 keeper->directory, why);
}

static void *
keeper_main(void *context)
{
    struct keeper *keeper = context;
    enum err err = keeper->touches ? last_good_touch(keeper->directory)
                                   : last_good_save(keeper->directory, keeper->source,
                                                    keeper->etag, buf_slice(&keeper->body));
    /* ERR_CLOSED: another gateway does the same. */
    if (err && err != ERR_CLOSED) {
        failed(keeper, err == ERR_IO ? strerror(errno) : err_text(err));
    }
    buf_fini(&keeper->body);
    atomic_store(&keeper->busy, false);
    return NULL;
}

static bool
take_turn(struct keeper *keeper)
{
    if (atomic_load(&keeper->busy)) {
        return false;
    }
    keeper_join(keeper);
    return true;
}

static void
start(struct keeper *keeper)
{
    atomic_store(&keeper->busy, true);
    if (pthread_create(&keeper->thread, NULL, keeper_main, keeper) != 0) {
        buf_fini(&keeper->body);
        atomic_store(&keeper->busy, false);
        failed(keeper, "no thread could be started");
        return;
    }
    keeper->started = true;
}

void
keeper_save(struct keeper *keeper, struct buf *body, const char *etag)
{
    if (keeper->directory == NULL) {
        return;
    }
    if (!take_turn(keeper)) {
        failed(keeper, "the last write has not ended");
        return;
    }
    keeper->touches = false;
    keeper->body = *body;
    buf_init(body, 0);
    memcpy(keeper->etag, etag, strlen(etag) + 1);
    atomic_store(&keeper->current, true);
    start(keeper);
}

void
keeper_confirm(struct keeper *keeper)
{
    /* A list that is not the one in force must not look newer than it is. */
    if (keeper->directory != NULL && keeper_is_current(keeper) && take_turn(keeper)) {
        keeper->touches = true;
        start(keeper);
    }
}

void
keeper_note_loaded(struct keeper *keeper)
{
    atomic_store(&keeper->current, true);
}

bool
keeper_is_current(const struct keeper *keeper)
{
    return atomic_load(&keeper->current);
}

void
keeper_join(struct keeper *keeper)
{
    if (keeper->started) {
        pthread_join(keeper->thread, NULL);
        keeper->started = false;
    }
}
