/* Three stations of a record: the journal's current segment (appended by any thread), a segment
 * that is being moved, and the database.  It is in at least one of them until spool_delete or
 * spool_bury; where it is in two, the key tells. */
#include "spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "database.h"
#include "io.h"
#include "journal.h"
#include "mem.h"

#define SLOTS_MAX 1024
#define BATCH_MAX 500
#define PATH_SIZE_MAX 4096
/* Healthy again only when this much is free, so that one record more does not make it full at once.
 */
#define ROOM_MIN 4096
/* Of the backend's answer to a refused record. */
#define ANSWER_KEPT 1000

static_assert(SPOOL_KEY_LEN == JOURNAL_KEY_LEN, "the journal keeps the spool's keys");

struct spool {
    int64_t max_bytes;
    struct journal journal;
    /* any thread */
    _Atomic int64_t journal_bytes, journal_records;   /* appended, not yet in the database */
    _Atomic int64_t database_bytes, database_records; /* as the spool thread last saw them */
    atomic_bool refused; /* an append failed, and no room was seen since */

    /* the spool thread's */
    struct journal_segment old; /* being moved; fd is -1 when there is none */
    struct database *database;
    char *slot; /* directory; NULL in memory */
    int lock_fd;
    char message[SPOOL_MESSAGE_SIZE];
};

/* ---- messages ---- */

static void say(struct spool *spool, const char *format, ...) PRINTF_LIKE(2, 3);

/* Adds a clause to the message. */
static void
say(struct spool *spool, const char *format, ...)
{
    va_list arguments;
    size_t len = strlen(spool->message);
    if (len > 0 && len + 2 < sizeof spool->message) {
        memcpy(spool->message + len, "; ", 3);
        len += 2;
    }
    va_start(arguments, format);
    vsnprintf(spool->message + len, sizeof spool->message - len, format, arguments);
    va_end(arguments);
}

static enum err
failed(struct spool *spool, enum err err, const char *what, const char *path)
{
    say(spool, "cannot %s %s: %s", what, path, err == ERR_IO ? strerror(errno) : err_text(err));
    return err;
}

/* Takes over what the database has to say, be it a failure or a corrupt file that it replaced. */
static enum err
heard(struct spool *spool, enum err err)
{
    const char *message = database_message(spool->database);
    if (message[0] != '\0') {
        say(spool, "%s", message);
    }
    else if (err) {
        say(spool, "%s", err_text(err));
    }
    return err;
}

static enum err
join_path(const char *directory, const char *name, char **out)
{
    struct buf path;
    size_t len;
    buf_init(&path, PATH_SIZE_MAX);
    enum err err = buf_append_format(&path, "%s/%s", directory, name);
    if (!err && (*out = buf_take(&path, &len)) == NULL) {
        err = ERR_MEMORY;
    }
    buf_fini(&path);
    return err;
}

/* ---- room ---- */

static int64_t
bytes_used(struct spool *spool)
{
    return atomic_load(&spool->journal_bytes) + atomic_load(&spool->database_bytes);
}

/* After every change of the database. */
static void
take_stock(struct spool *spool)
{
    atomic_store(&spool->database_bytes, database_bytes(spool->database));
    atomic_store(&spool->database_records, database_records(spool->database));
    if (bytes_used(spool) + ROOM_MIN <= spool->max_bytes && !journal_is_sealed(&spool->journal)) {
        atomic_store(&spool->refused, false);
    }
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
    return depth > 0 ? depth : 0;
}

enum err
spool_append(struct spool *spool, const char key[SPOOL_KEY_LEN], struct slice body)
{
    int64_t size = JOURNAL_OVERHEAD + (int64_t)body.len;
    /* Taken before it is used: two threads cannot both have the last of it. */
    atomic_fetch_add(&spool->journal_bytes, size);
    atomic_fetch_add(&spool->journal_records, 1);
    enum err err = ERR_LIMIT;
    if (bytes_used(spool) <= spool->max_bytes &&
        !(err = journal_append(&spool->journal, key, body))) {
        return ERR_OK;
    }
    atomic_fetch_sub(&spool->journal_records, 1);
    atomic_fetch_sub(&spool->journal_bytes, size);
    /* The other errors are this record's own. */
    if (err == ERR_LIMIT || err == ERR_IO) {
        atomic_store(&spool->refused, true);
    }
    return err;
}

/* ---- moving ---- */

/* Moves up to BATCH_MAX records in one transaction; *count is less at the end of the segment. */
static enum err
move_batch(struct spool *spool, struct journal_reader *reader, size_t *count)
{
    size_t done = 0;
    struct journal_record record;
    enum err err = database_begin(spool->database);
    if (err) {
        return heard(spool, err);
    }
    enum err read_err = ERR_OK;
    while (done < BATCH_MAX && !err && !(read_err = journal_read(reader, &record))) {
        err = database_insert(spool->database, (struct slice){record.key, JOURNAL_KEY_LEN},
                              record.body);
        done++;
    }
    if (!err && read_err && read_err != ERR_MISSING) {
        err = failed(spool, read_err, "read", "the journal");
    }
    err = heard(spool, database_end(spool->database, err));
    if (!err) {
        *count = done;
    }
    return err;
}

static void
report_damage(struct spool *spool, struct journal_segment *segment,
              const struct journal_reader *reader)
{
    const char *path = segment->path != NULL ? segment->path : "the journal in memory";
    if (reader->torn > 0 && !segment->sealed) {
        say(spool, "dropped an unfinished record at the end of %s", path);
    }
    if (reader->corrupt > 0) {
        segment->corrupt = true;
        say(spool,
            "passed over %lld bytes in %s that are no record; the file is kept beside it as "
            ".corrupt",
            (long long)reader->corrupt, path);
    }
}

/* Moves what the segment holds, and removes it.  After a failure another call goes on where this
 * one stopped.  *moved counts the records that are in the database now, also on failure. */
static enum err
drain(struct spool *spool, struct journal_segment *segment, size_t *moved)
{
    struct journal_reader reader;
    enum err err;
    size_t count;
    journal_reader_init(&reader, segment);
    do {
        err = move_batch(spool, &reader, &count);
        if (!err) {
            *moved += count;
            segment->read_from = journal_reader_position(&reader);
        }
    } while (!err && count == BATCH_MAX);
    if (!err) {
        report_damage(spool, segment, &reader);
    }
    journal_reader_fini(&reader);
    if (!err && (err = journal_segment_discard(segment))) {
        err = failed(spool, err, "remove", segment->path);
    }
    return err;
}

enum err
spool_move(struct spool *spool, size_t *moved)
{
    size_t count = 0;
    enum err err = ERR_OK;
    spool->message[0] = '\0';
    if (spool->old.fd < 0 && !journal_is_idle(&spool->journal) &&
        (err = journal_rotate(&spool->journal, &spool->old))) {
        err = failed(spool, err, "begin a new journal in", spool_place(spool));
    }
    if (spool->old.fd >= 0) {
        int64_t size = spool->old.size;
        err = drain(spool, &spool->old, &count);
        atomic_fetch_sub(&spool->journal_records, (int64_t)count);
        atomic_fetch_sub(&spool->journal_bytes, err ? 0 : size);
    }
    take_stock(spool);
    if (!err) {
        *moved = count;
    }
    return err;
}

/* Moves the journals that an earlier process left in a slot directory, ours or a dead one's, into
 * our database.  *next is a number that no segment there has. */
static enum err
recover(struct spool *spool, const char *directory, uint32_t *next)
{
    uint32_t *numbers;
    size_t count, moved = 0;
    enum err err = journal_list(directory, &numbers, &count);
    if (err) {
        return failed(spool, err, "read the directory", directory);
    }
    for (size_t i = 0; i < count && !err; i++) {
        struct journal_segment segment;
        if ((err = journal_segment_open(directory, numbers[i], &segment))) {
            failed(spool, err, "open a journal in", directory);
            break;
        }
        err = drain(spool, &segment, &moved);
        journal_segment_close(&segment);
    }
    *next = count > 0 ? numbers[count - 1] + 1 : 0;
    mem_free(numbers);
    return err;
}

/* ---- slots ---- */

/* ERR_CLOSED when another process has it. */
static enum err
lock_slot(struct spool *spool, const char *slot)
{
    char *path;
    int fd;
    enum err err = io_make_directories(slot);
    if (err || (err = join_path(slot, "lock", &path))) {
        return failed(spool, err, "make the directory", slot);
    }
    if ((err = io_open(path, O_RDWR | O_CREAT, &fd))) {
        failed(spool, err, "open", path);
    }
    else if ((err = io_lock(fd))) {
        if (err != ERR_CLOSED) {
            failed(spool, err, "lock", path);
        }
        io_close(fd);
    }
    else {
        spool->lock_fd = fd;
    }
    mem_free(path);
    return err;
}

/* The lowest slot that nobody holds. */
static enum err
take_slot(struct spool *spool, const char *directory)
{
    for (int number = 0; number < SLOTS_MAX; number++) {
        char name[16];
        char *slot;
        snprintf(name, sizeof name, "%d", number);
        enum err err = join_path(directory, name, &slot);
        if (err) {
            return failed(spool, err, "use", directory);
        }
        err = lock_slot(spool, slot);
        if (!err) {
            spool->slot = slot;
            return ERR_OK;
        }
        mem_free(slot);
        if (err != ERR_CLOSED) {
            return err;
        }
    }
    say(spool, "all %d slots in %s are taken by running processes", SLOTS_MAX, directory);
    return ERR_LIMIT;
}

/* ---- life ---- */

static enum err
open_database(struct spool *spool)
{
    char message[DATABASE_MESSAGE_SIZE];
    char *path = NULL;
    enum err err = ERR_OK;
    if (spool->slot != NULL && (err = join_path(spool->slot, "spool.db", &path))) {
        return failed(spool, err, "open the activity database in", spool->slot);
    }
    err = database_create(path, &spool->database, message);
    if (message[0] != '\0') {
        say(spool, "%s", message);
    }
    mem_free(path);
    return err;
}

static enum err
open_all(struct spool *spool, const char *directory)
{
    uint32_t next = 0;
    enum err err = ERR_OK;
    if (directory != NULL && directory[0] != '\0') {
        err = take_slot(spool, directory);
    }
    if (err || (err = open_database(spool)) ||
        (spool->slot != NULL && (err = recover(spool, spool->slot, &next)))) {
        return err;
    }
    if ((err = journal_init(&spool->journal, spool->slot, next))) {
        return failed(spool, err, "begin a journal in", spool_place(spool));
    }
    take_stock(spool);
    return ERR_OK;
}

static void
close_without_journal(struct spool *spool)
{
    database_destroy(spool->database);
    /* Last: the slot is another's as soon as the lock is gone. */
    if (spool->lock_fd >= 0) {
        io_close(spool->lock_fd);
    }
    mem_free(spool->slot);
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
    spool->old.fd = -1;
    spool->lock_fd = -1;
    enum err err = open_all(spool, config->directory);
    if (err) {
        memcpy(message, spool->message, sizeof spool->message);
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
    spool->message[0] = '\0';
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
    spool->message[0] = '\0';
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
    spool->message[0] = '\0';
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
    return spool->message;
}

const char *
spool_place(const struct spool *spool)
{
    return spool->slot != NULL ? spool->slot : "memory";
}

const char *
spool_library_version(void)
{
    return database_library_version();
}
