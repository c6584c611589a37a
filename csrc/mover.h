/* From journal segments into the database: those of this process, and those that an earlier one
 * left behind.
 *
 * A struct leftovers owns its list and the segment that it is in; the database is the caller's.
 * What a call has to say is added to the caller's line.
 *
 * One thread at a time.  Calls may wait for the disk. */
#ifndef FORWARDER_MOVER_H
#define FORWARDER_MOVER_H

#include "database.h"
#include "journal.h"

/* Records in one transaction. */
#define MOVER_BATCH 500

#define MOVER_LINE_SIZE 256

/* One line for the log: clauses, with "; " in between. */
struct mover_line {
    char text[MOVER_LINE_SIZE];
};
void mover_say(struct mover_line *line, const char *format, ...) PRINTF_LIKE(2, 3);

/* Moves what the segment holds, a batch a transaction and at most *batches of them, and discards
 * the segment at its end (its fd is -1 then).  Another call goes on where this one stopped, also
 * after a failure.  *moved counts the records that are in the database now, also on failure. */
enum err mover_drain(struct database *database, struct journal_segment *segment, size_t *batches,
                     size_t *moved, struct mover_line *line) MUST_CHECK;

/* The segments that an earlier process left in a directory. */
struct leftovers {
    char *directory;
    uint32_t *numbers;
    size_t count, at; /* segment number `at` is the one being moved */
    struct journal_segment segment;
    int64_t bytes; /* of those still there */
};
/* *next is a number that no segment there has. */
enum err leftovers_open(const char *directory, struct leftovers *out, uint32_t *next) MUST_CHECK;
enum err leftovers_move(struct leftovers *leftovers, struct database *database, size_t *batches,
                        size_t *moved, struct mover_line *line) MUST_CHECK;
bool leftovers_remain(const struct leftovers *leftovers);
/* What was not moved stays on the disk. */
void leftovers_close(struct leftovers *leftovers);

#endif
