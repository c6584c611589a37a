/* The table of activity records that wait for delivery, and of those that the backend refused, in
 * one SQLite file.
 *
 * The database owns its connection.  A file that SQLite finds corrupt is moved aside and a fresh
 * one takes its place.
 *
 * One thread at a time.  Calls may wait for the disk. */
#ifndef FORWARDER_DATABASE_H
#define FORWARDER_DATABASE_H

#include "base.h"

#define DATABASE_MESSAGE_SIZE 256

struct database;

/* Opens the file, makes it where there is none; NULL: in memory.  On failure `message` says why; on
 * success it is "" or says that a corrupt file was moved aside, and where to. */
enum err database_create(const char *path, struct database **out,
                         char message[DATABASE_MESSAGE_SIZE]) MUST_CHECK;
void database_destroy(struct database *database);

/* Of the last call that failed, or that moved a corrupt file aside; borrowed until the next call,
 * "" otherwise. */
const char *database_message(const struct database *database);

/* A transaction: begin, any number of inserts, deletes and buries, end.  database_end commits when
 * `err`, the outcome of what was in between, is ERR_OK, and rolls back otherwise; it returns the
 * first failure. */
enum err database_begin(struct database *database) MUST_CHECK;
enum err database_end(struct database *database, enum err err) MUST_CHECK;
/* A key that is there already is fine. */
enum err database_insert(struct database *database, struct slice key, struct slice body,
                         double added_at) MUST_CHECK;
/* A row that is not there is fine. */
enum err database_delete(struct database *database, int64_t row) MUST_CHECK;
/* Up to max of the oldest rows after `after_row`. */
enum err database_trim(struct database *database, int64_t after_row, size_t max,
                       size_t *dropped) MUST_CHECK;
/* Moves a row to the table `dead`; ERR_MISSING. */
enum err database_bury(struct database *database, int64_t row, int status, struct slice answer,
                       double buried_at) MUST_CHECK;

/* Gets one row; the slices are borrowed for the call.  What it returns other than ERR_OK ends the
 * reading. */
typedef enum err database_row_fn(void *context, int64_t row, struct slice key, struct slice body);
/* Rows after `after_row`, ascending.  A row number is never used twice in the life of a struct
 * database, nor of its file. */
enum err database_read(struct database *database, int64_t after_row, size_t max,
                       database_row_fn *row_fn, void *context) MUST_CHECK;

/* Moves up to max records and as many dead letters of another database into this one; *more: ask
 * again.  What both have is once in the end. */
enum err database_absorb(struct database *database, struct database *source, size_t max,
                         bool *more) MUST_CHECK;

struct database_stock {
    int64_t records;  /* that wait */
    int64_t dead;     /* that the backend refused */
    int64_t bytes;    /* in use for everything */
    int64_t unused;   /* bytes that the file has beside these */
    double oldest_at; /* when the first record that waits was added; 0: none waits */
};
/* As of the last transaction of ours, or of the last database_look. */
struct database_stock database_stock(const struct database *database);
/* Did the last call that failed find no room on the disk? */
bool database_ran_full(const struct database *database);
/* Writes the log back into the file and gives its bytes back to the disk. */
enum err database_checkpoint(struct database *database) MUST_CHECK;
/* Gives up to max bytes that are not in use back to the disk. */
enum err database_shrink(struct database *database, int64_t max_bytes) MUST_CHECK;
/* Takes stock anew where another process has written (an administrator's command). */
void database_look(struct database *database);
const char *database_library_version(void);

#endif
