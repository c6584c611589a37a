/* The durable queue of activity records: an append-only intake journal in front of SQLite.
 *
 * A record is a key (36 characters) and a body.  spool_append copies both with one write(2); from
 * then on a kill -9 of this process cannot lose it.  The spool thread moves records into the
 * database at most every SPOOL_MOVE_MS, where the transaction is synced.  Each process owns one
 * numbered slot directory, held by a lock, and adopts those whose owner is dead; without a
 * directory the same files live in memory.
 *
 * spool_append, spool_is_healthy and the numbers below it: any thread (append: the loop).  The
 * rest: the spool thread, but for create and destroy, which the owner calls while that thread does
 * not run.
 */
#ifndef FORWARDER_SPOOL_H
#define FORWARDER_SPOOL_H

#include "buf.h"

#define SPOOL_KEY_LEN 36
#define SPOOL_MOVE_MS 100

struct spool;

struct spool_config {
    const char *directory; /* borrowed for the call; NULL or "" = memory only */
    int64_t max_bytes;     /* journal and database together */
    bool drops_when_full;  /* the oldest records make room; otherwise new ones are refused */
};

/* One record as the database gives it. */
struct spool_record {
    int64_t row;
    char key[SPOOL_KEY_LEN + 1];
    char *body; /* owned by whoever took the record; mem_free */
    size_t body_len;
};

#define SPOOL_MESSAGE_SIZE 256

/* Opens a slot, whatever is in it, without reading it all.  On failure message says what is wrong
 * and what to do. */
enum err
spool_create(const struct spool_config *config, struct spool **out,
             char message[SPOOL_MESSAGE_SIZE]) MUST_CHECK;
void
spool_destroy(struct spool *spool);

/* ERR_LIMIT when full, ERR_IO when the disk refuses: the caller must not let the answer out. */
enum err
spool_append(struct spool *spool, const char key[SPOOL_KEY_LEN], struct slice body) MUST_CHECK;
/* False once an append failed or the spool is full; true again when there is room. */
bool
spool_is_healthy(struct spool *spool);
/* Records not yet delivered (journal and database), an estimate good to one batch; the journals of
 * an earlier process count as one as long as there are any. */
int64_t
spool_depth(struct spool *spool);
int64_t
spool_bytes(struct spool *spool);
/* Records that the backend has refused for good. */
int64_t
spool_dead(struct spool *spool);
/* How long the first of those in the database has waited; 0: none waits. */
int64_t
spool_oldest_age_ms(struct spool *spool);

/* Moves complete journal records into the database, those of an earlier process first; *moved
 * counts them. */
enum err
spool_move(struct spool *spool, size_t *moved) MUST_CHECK;
/* The last move stopped half-way, so that the thread could do something else: move again. */
bool
spool_has_more(const struct spool *spool);
/* Drops the oldest records after after_row where the configuration says so and little room is left;
 * *dropped counts them, also on failure. */
enum err
spool_trim(struct spool *spool, int64_t after_row, size_t *dropped) MUST_CHECK;
/* Counts what an administrator's command may have put into the database. */
void
spool_look(struct spool *spool);
/* Takes over a part of what dead processes left in their slots; *more: call again soon. */
enum err
spool_adopt(struct spool *spool, bool *more) MUST_CHECK;
/* Up to max records with row > after_row, oldest first; *count may be 0. */
enum err
spool_read(struct spool *spool, int64_t after_row, struct spool_record *records, size_t max,
           size_t *count) MUST_CHECK;
/* Accepted by the backend: gone. */
enum err
spool_delete(struct spool *spool, const int64_t *rows, size_t count) MUST_CHECK;
/* Refused for good: kept apart, with the answer's status and beginning, until an administrator
 * looks. */
enum err
spool_bury(struct spool *spool, int64_t row, int status, const char *answer) MUST_CHECK;
/* Why the last call of the spool thread (or spool_create) failed, or, after success, what an
 * administrator should know (a damaged file was put aside); "" where there is nothing to say.  One
 * line, borrowed until the next call. */
const char *
spool_message(const struct spool *spool);
/* What is in it ends with the process. */
bool
spool_is_in_memory(const struct spool *spool);
/* "…/0", or "memory"; borrowed. */
const char *
spool_place(const struct spool *spool);
const char *
spool_library_version(void);

#endif
