/* A record is deleted from the slot only when it is in our database: a death in between leaves it in
 * both, and its key tells. */
#include "orphan.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "io.h"
#include "mem.h"

void
orphan_init(struct orphan *orphan)
{
    *orphan = (struct orphan){.journals = {.segment = {.fd = -1}}};
}

void
orphan_let_go(struct orphan *orphan)
{
    database_destroy(orphan->database);
    orphan->database = NULL;
    leftovers_close(&orphan->journals);
    slot_release(&orphan->slot);
}

/* All but the lock, when nothing is in them any more. */
static enum err
empty_slot(const char *slot)
{
    static const char *const names[] = {"spool.db-wal", "spool.db-shm", "spool.db", "reserve"};
    enum err err = ERR_OK;
    for (size_t i = 0; i < COUNT_OF(names) && !err; i++) {
        char *path;
        if (!(err = slot_join_path(slot, names[i], &path))) {
            err = io_unlink(path);
            mem_free(path);
        }
    }
    return err;
}

/* ERR_MISSING where the slot has no database. */
static enum err
open_database(struct orphan *orphan, struct mover_line *line)
{
    char message[DATABASE_MESSAGE_SIZE] = "";
    char *path;
    int fd;
    enum err err = slot_join_path(orphan->slot.path, "spool.db", &path);
    if (err) {
        return err;
    }
    if ((err = io_open(path, O_RDWR, &fd))) {
        err = errno == ENOENT ? ERR_MISSING : err;
    }
    else {
        io_close(fd);
        err = database_create(path, &orphan->database, message);
    }
    mem_free(path);
    if (message[0] != '\0') {
        mover_say(line, "%s", message);
    }
    return err;
}

static enum err
take_next(struct orphan *orphan, const char *directory)
{
    uint32_t next;
    enum err err = slot_take_orphan(directory, &orphan->next, &orphan->slot);
    if (err) {
        return err;
    }
    if ((err = leftovers_open(orphan->slot.path, &orphan->journals, &next))) {
        slot_release(&orphan->slot);
    }
    return err;
}

/* *done when nothing is left in the slot. */
static enum err
step(struct orphan *orphan, struct database *into, struct mover_line *line, bool *done)
{
    size_t batches = 1, moved = 0;
    bool more = false;
    enum err err;
    if (leftovers_remain(&orphan->journals)) {
        return leftovers_move(&orphan->journals, into, &batches, &moved, line);
    }
    if (orphan->database == NULL && (err = open_database(orphan, line))) {
        *done = err == ERR_MISSING;
        return *done ? empty_slot(orphan->slot.path) : err;
    }
    if ((err = database_absorb(into, orphan->database, MOVER_BATCH, &more))) {
        const char *message = database_message(orphan->database);
        mover_say(line, "%s", message[0] != '\0' ? message : database_message(into));
        return err;
    }
    if (!more) {
        *done = true;
        database_destroy(orphan->database);
        orphan->database = NULL;
        err = empty_slot(orphan->slot.path);
    }
    return err;
}

enum err
orphan_adopt(struct orphan *orphan, const char *directory, struct database *into, bool *more,
             struct mover_line *line)
{
    enum err err = ERR_OK;
    bool done = false;
    *more = false;
    if (orphan->slot.path == NULL && (err = take_next(orphan, directory)) == ERR_MISSING) {
        orphan->next = 0;
        return ERR_OK;
    }
    if (!err) {
        err = step(orphan, into, line, &done);
    }
    if (err && line->text[0] == '\0') {
        mover_say(line, "cannot adopt a slot in %s: %s", directory,
                  err == ERR_IO ? strerror(errno) : err_text(err));
    }
    if (err || done) {
        orphan_let_go(orphan);
    }
    /* Looked at again and again, but reported once. */
    if (err && orphan->failed) {
        line->text[0] = '\0';
    }
    orphan->failed = err != ERR_OK || (orphan->failed && !done);
    *more = !err;
    return err;
}
