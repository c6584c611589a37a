/* Three stations of a record: the journal's current segment (appended by any thread), a segment
 * that is being moved, and the database.  It is in at least one of them until spool_delete or
 * spool_bury; where it is in two, the key tells. */
#include "spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "database.h"
#include "io.h"
#include "journal.h"
#include "mem.h"
#include "mover.h"
#include "orphan.h"
#include "slot.h"

/* Of one spool_move, so that what an earlier process left does not hold up all else. */
#define MOVE_BATCHES_MAX 20
#define TRIM_BATCH 500
/* Healthy again only when this much is free, so that one record more does not make it full at once.
 */
#define ROOM_MIN 4096
/* A file that is there to be removed: on a full disk the database needs room even to delete, more
 * than its log may grow to. */
#define RESERVE_BYTES (4 * 1024 * 1024)
/* Given back to the disk at a time, where the database does not need it. */
#define SHRINK_BYTES (2 * 1024 * 1024)
/* Of the backend's answer to a refused record. */
#define ANSWER_KEPT 1000

static_assert(SPOOL_KEY_LEN == JOURNAL_KEY_LEN, "the journal keeps the spool's keys");
static_assert(SPOOL_MESSAGE_SIZE == MOVER_LINE_SIZE && SPOOL_MESSAGE_SIZE == SLOT_MESSAGE_SIZE,
              "messages are passed on");

struct spool {
    int64_t max_bytes;
    bool drops; /* the oldest, when full */
    struct journal journal;
    /* any thread */
    _Atomic int64_t journal_bytes, journal_records;   /* appended, not yet in the database */
    _Atomic int64_t database_bytes, database_records; /* as the spool thread last saw them */
    _Atomic int64_t dead_records, oldest_at_ms;       /* likewise; wall clock, 0: none waits */
    atomic_bool refused;     /* an append failed, and no room was seen since */
    atomic_bool disk_failed; /* it was the disk that refused */
    atomic_bool behind;      /* an earlier process's journals are still to be moved */

    /* the spool thread's */
    struct leftovers leftovers; /* of the slot's last process */
    struct journal_segment old; /* being moved; fd is -1 when there is none */
    struct database *database;
    char *directory; /* NULL in memory, as is slot.path */
    struct slot slot;
    struct orphan orphan;
    bool reserved; /* the reserve is there, or needed by nobody */
    struct mover_line line;
};

/* ---- messages ---- */

static enum err
failed(struct spool *spool, enum err err, const char *what, const char *path)
{
    mover_say(&spool->line, "cannot %s %s: %s", what, path,
              err == ERR_IO ? strerror(errno) : err_text(err));
    return err;
}

/* Takes over what the database has to say, be it a failure or a corrupt file that it replaced. */
static enum err
heard(struct spool *spool, enum err err)
{
    const char *message = database_message(spool->database);
    if (message[0] != '\0') {
        mover_say(&spool->line, "%s", message);
    }
    else if (err) {
        mover_say(&spool->line, "%s", err_text(err));
    }
    return err;
}

/* ---- room ---- */

static int64_t
bytes_used(struct spool *spool)
{
    return atomic_load(&spool->journal_bytes) + atomic_load(&spool->database_bytes);
}

/* Has a file of this size taken from the disk and, unless it is to stay, given back. */
static bool
take_file(struct spool *spool, const char *name, off_t size, bool stays)
{
    char *path;
    int fd;
    if (slot_join_path(spool->slot.path, name, &path)) {
        return false;
    }
    enum err err = io_open(path, O_WRONLY | O_CREAT | O_TRUNC, &fd);
    if (!err) {
        err = io_allocate(fd, size);
        io_close(fd);
        if ((err || !stays) && io_unlink(path)) {
            err = ERR_IO;
        }
    }
    mem_free(path);
    return !err;
}

/* Does the disk take bytes again?  A file can often be made where nothing can be written. */
static bool
disk_works(struct spool *spool)
{
    return spool->slot.path == NULL || take_file(spool, "probe", ROOM_MIN, false);
}

static void
make_reserve(struct spool *spool)
{
    spool->reserved = spool->slot.path == NULL || spool->reserved
                      || take_file(spool, "reserve", RESERVE_BYTES, true);
}

/* So that what the backend has accepted can be deleted. */
static void
use_reserve(struct spool *spool)
{
    char *path;
    if (spool->slot.path == NULL || slot_join_path(spool->slot.path, "reserve", &path)) {
        return;
    }
    enum err err = io_unlink(path);
    mem_free(path);
    spool->reserved = false;
    atomic_store(&spool->refused, true);
    if (!err) {
        err = database_checkpoint(spool->database);
    }
    if (err) {
        mover_say(&spool->line, "the disk is full, and the reserve did not help");
    }
}

/* After every change of the database. */
static void
take_stock(struct spool *spool)
{
    if (spool->reserved && database_ran_full(spool->database)) {
        use_reserve(spool);
    }
    struct database_stock stock = database_stock(spool->database);
    atomic_store(&spool->database_bytes, stock.bytes);
    atomic_store(&spool->database_records, stock.records);
    atomic_store(&spool->dead_records, stock.dead);
    atomic_store(&spool->oldest_at_ms, (int64_t)(stock.oldest_at * 1000.0));
    if (!atomic_load(&spool->refused) || bytes_used(spool) + ROOM_MIN > spool->max_bytes
        || journal_is_sealed(&spool->journal) || !spool->reserved
        || (atomic_load(&spool->disk_failed) && !disk_works(spool))) {
        return;
    }
    atomic_store(&spool->disk_failed, false);
    atomic_store(&spool->refused, false);
}

bool
spool_is_healthy(struct spool *spool)
{
    return !atomic_load(&spool->refused) && bytes_used(spool) < spool->max_bytes;
}

int64_t
spool_depth(struct spool *spool)
{
    int64_t depth = atomic_load(&spool->journal_records) + atomic_load(&spool->database_records);
    return (depth > 0 ? depth : 0) + atomic_load(&spool->behind);
}

int64_t
spool_bytes(struct spool *spool)
{
    return bytes_used(spool);
}

int64_t
spool_dead(struct spool *spool)
{
    return atomic_load(&spool->dead_records);
}

int64_t
spool_oldest_age_ms(struct spool *spool)
{
    int64_t oldest_ms = atomic_load(&spool->oldest_at_ms);
    /* A clock that was put back makes no record younger than new. */
    int64_t age_ms = (int64_t)(clock_wall_seconds() * 1000.0) - oldest_ms;
    return oldest_ms > 0 && age_ms > 0 ? age_ms : 0;
}

enum err
spool_append(struct spool *spool, const char key[SPOOL_KEY_LEN], struct slice body)
{
    int64_t size = JOURNAL_OVERHEAD + (int64_t)body.len;
    /* Taken before it is used: two threads cannot both have the last of it. */
    atomic_fetch_add(&spool->journal_bytes, size);
    atomic_fetch_add(&spool->journal_records, 1);
    enum err err = ERR_LIMIT;
    if (bytes_used(spool) <= spool->max_bytes
        && !(err = journal_append(&spool->journal, key, body))) {
        return ERR_OK;
    }
    atomic_fetch_sub(&spool->journal_records, 1);
    atomic_fetch_sub(&spool->journal_bytes, size);
    /* The other errors are this record's own. */
    if (err == ERR_LIMIT || err == ERR_IO) {
        atomic_store(&spool->disk_failed, err == ERR_IO);
        atomic_store(&spool->refused, true);
    }
    return err;
}

/* ---- moving ---- */

static enum err
move_old(struct spool *spool, size_t *batches, size_t *moved)
{
    enum err err = ERR_OK;
    if (spool->old.fd < 0 && !journal_is_idle(&spool->journal)
        && (err = journal_rotate(&spool->journal, &spool->old))) {
        return failed(spool, err, "begin a new journal in", spool_place(spool));
    }
    if (spool->old.fd < 0) {
        return ERR_OK;
    }
    size_t count = 0;
    int64_t size = spool->old.size;
    err = mover_drain(spool->database, &spool->old, batches, &count, &spool->line);
    atomic_fetch_sub(&spool->journal_records, (int64_t)count);
    atomic_fetch_sub(&spool->journal_bytes, spool->old.fd < 0 ? size : 0);
    *moved += count;
    if (err && spool->old.fd >= 0 && io_sync(spool->old.fd)) {
        /* The database does not take them, so they have to be safe where they are. */
        failed(spool, ERR_IO, "sync the journal in", spool_place(spool));
    }
    return err;
}

enum err
spool_move(struct spool *spool, size_t *moved)
{
    size_t count = 0, batches = MOVE_BATCHES_MAX;
    int64_t bytes = spool->leftovers.bytes;
    spool->line.text[0] = '\0';
    make_reserve(spool);
    if (!spool->reserved && database_stock(spool->database).records > 0) {
        /* What little room there is belongs to the deletions. */
        *moved = 0;
        return ERR_OK;
    }
    enum err err =
        leftovers_move(&spool->leftovers, spool->database, &batches, &count, &spool->line);
    atomic_fetch_sub(&spool->journal_bytes, bytes - spool->leftovers.bytes);
    atomic_store(&spool->behind, spool->leftovers.bytes > 0);
    /* Also after a failure: a file that cannot be read must not hold up the new ones. */
    enum err old_err = move_old(spool, &batches, &count);
    err = err ? err : old_err;
    take_stock(spool);
    if (!err) {
        *moved = count;
    }
    return err;
}

bool
spool_has_more(const struct spool *spool)
{
    return leftovers_remain(&spool->leftovers) || spool->old.fd >= 0;
}

/* Begins well below the limit: what is appended meanwhile must find room. */
enum err
spool_trim(struct spool *spool, int64_t after_row, size_t *dropped)
{
    size_t count = TRIM_BATCH, total = 0;
    enum err err = ERR_OK;
    spool->line.text[0] = '\0';
    while (spool->drops && !err && count > 0
           && bytes_used(spool) > spool->max_bytes - spool->max_bytes / 8) {
        if (!(err = database_begin(spool->database))) {
            err = database_trim(spool->database, after_row, TRIM_BATCH, &count);
            err = database_end(spool->database, err);
        }
        heard(spool, err);
        total += err ? 0 : count;
        take_stock(spool);
    }
    *dropped = total;
    return err;
}

void
spool_look(struct spool *spool)
{
    database_look(spool->database);
    struct database_stock stock = database_stock(spool->database);
    if (stock.unused >= SHRINK_BYTES && (stock.records == 0 || !spool->reserved)) {
        heard(spool, database_shrink(spool->database, SHRINK_BYTES));
    }
    take_stock(spool);
}

enum err
spool_adopt(struct spool *spool, bool *more)
{
    spool->line.text[0] = '\0';
    *more = false;
    /* What is taken over must not fill us up. */
    if (spool->directory == NULL || bytes_used(spool) > spool->max_bytes / 2) {
        return ERR_OK;
    }
    enum err err =
        orphan_adopt(&spool->orphan, spool->directory, spool->database, more, &spool->line);
    if (err || *more) {
        take_stock(spool);
    }
    return err;
}

/* ---- life ---- */

static enum err
open_database(struct spool *spool)
{
    char message[DATABASE_MESSAGE_SIZE];
    char *path = NULL;
    enum err err = ERR_OK;
    if (spool->slot.path != NULL && (err = slot_join_path(spool->slot.path, "spool.db", &path))) {
        return failed(spool, err, "open the activity database in", spool->slot.path);
    }
    err = database_create(path, &spool->database, message);
    if (message[0] != '\0') {
        mover_say(&spool->line, "%s", message);
    }
    mem_free(path);
    return err;
}

/* The slot, and what is in it. */
static enum err
open_slot(struct spool *spool, const char *directory, uint32_t *next)
{
    if ((spool->directory = mem_string(directory)) == NULL) {
        return failed(spool, ERR_MEMORY, "use", directory);
    }
    enum err err = slot_take(directory, &spool->slot, spool->line.text);
    if (!err && (err = leftovers_open(spool->slot.path, &spool->leftovers, next))) {
        failed(spool, err, "read the journals in", spool->slot.path);
    }
    return err;
}

static enum err
open_all(struct spool *spool, const char *directory)
{
    uint32_t next = 0;
    enum err err = ERR_OK;
    if (directory != NULL && directory[0] != '\0') {
        err = open_slot(spool, directory, &next);
    }
    if (err || (err = open_database(spool))) {
        return err;
    }
    if ((err = journal_init(&spool->journal, spool->slot.path, next))) {
        return failed(spool, err, "begin a journal in", spool_place(spool));
    }
    make_reserve(spool);
    atomic_store(&spool->refused, !spool->reserved);
    atomic_store(&spool->journal_bytes, spool->leftovers.bytes);
    atomic_store(&spool->behind, spool->leftovers.bytes > 0);
    take_stock(spool);
    return ERR_OK;
}

static void
close_without_journal(struct spool *spool)
{
    orphan_let_go(&spool->orphan);
    leftovers_close(&spool->leftovers);
    database_destroy(spool->database);
    /* Last: the slot is another's as soon as the lock is gone. */
    slot_release(&spool->slot);
    mem_free(spool->directory);
    mem_free(spool);
}

enum err
spool_create(const struct spool_config *config, struct spool **out,
             char message[SPOOL_MESSAGE_SIZE])
{
    struct spool *spool = mem_zalloc(sizeof *spool);
    if (spool == NULL) {
        snprintf(message, SPOOL_MESSAGE_SIZE, "%s", err_text(ERR_MEMORY));
        return ERR_MEMORY;
    }
    spool->max_bytes = config->max_bytes;
    spool->drops = config->drops_when_full;
    spool->old.fd = spool->leftovers.segment.fd = -1;
    orphan_init(&spool->orphan);
    enum err err = open_all(spool, config->directory);
    if (err) {
        memcpy(message, spool->line.text, sizeof spool->line.text);
        close_without_journal(spool);
        return err;
    }
    *out = spool;
    return ERR_OK;
}

void
spool_destroy(struct spool *spool)
{
    if (spool == NULL) {
        return;
    }
    journal_segment_close(&spool->old);
    journal_fini(&spool->journal);
    close_without_journal(spool);
}

/* ---- what the database holds ---- */

struct reading {
    struct spool_record *records;
    size_t count;
};

static enum err
take_row(void *context, int64_t row, struct slice key, struct slice body)
{
    struct reading *reading = context;
    struct spool_record *record = &reading->records[reading->count];
    char *copy = mem_copy(body.data, body.len);
    if (copy == NULL) {
        return ERR_MEMORY;
    }
    record->row = row;
    snprintf(record->key, sizeof record->key, "%.*s", (int)key.len, key.data);
    record->body = copy;
    record->body_len = body.len;
    reading->count++;
    return ERR_OK;
}

enum err
spool_read(struct spool *spool, int64_t after_row, struct spool_record *records, size_t max,
           size_t *count)
{
    struct reading reading = {.records = records};
    spool->line.text[0] = '\0';
    enum err err = heard(spool, database_read(spool->database, after_row, max, take_row, &reading));
    if (err) {
        while (reading.count > 0) {
            mem_free(records[--reading.count].body);
        }
        take_stock(spool);
        return err;
    }
    *count = reading.count;
    return ERR_OK;
}

enum err
spool_delete(struct spool *spool, const int64_t *rows, size_t count)
{
    spool->line.text[0] = '\0';
    enum err err = database_begin(spool->database);
    if (!err) {
        for (size_t i = 0; i < count && !err; i++) {
            err = database_delete(spool->database, rows[i]);
        }
        err = database_end(spool->database, err);
    }
    err = heard(spool, err);
    take_stock(spool);
    return err;
}

enum err
spool_bury(struct spool *spool, int64_t row, int status, const char *answer)
{
    struct slice kept = {answer, strnlen(answer, ANSWER_KEPT)};
    spool->line.text[0] = '\0';
    enum err err = database_begin(spool->database);
    if (!err) {
        err = database_bury(spool->database, row, status, kept, clock_wall_seconds());
        err = database_end(spool->database, err);
    }
    err = heard(spool, err);
    take_stock(spool);
    return err;
}

const char *
spool_message(const struct spool *spool)
{
    return spool->line.text;
}

bool
spool_is_in_memory(const struct spool *spool)
{
    return spool->slot.path == NULL;
}

const char *
spool_place(const struct spool *spool)
{
    return spool->slot.path != NULL ? spool->slot.path : "memory";
}

const char *
spool_library_version(void)
{
    return database_library_version();
}
