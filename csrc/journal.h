/* The intake journal: append-only segment files of length-prefixed, checksummed records, and the
 * reading of them.
 *
 * The structs are the caller's memory; a segment owns its descriptor and its path.  journal_rotate
 * gives the finished segment to the caller, who reads it and then either discards it (what it held
 * is safe elsewhere) or closes it (it stays for the next start).  A record that is read borrows the
 * reader's bytes until the next journal_read.
 *
 * journal_append: any thread (the loop).  The rest: one thread, the spool's. */
#ifndef FORWARDER_JOURNAL_H
#define FORWARDER_JOURNAL_H

#include <sys/types.h>

#include "lock.h"

#define JOURNAL_KEY_LEN 36
#define JOURNAL_BODY_MAX (1024u * 1024u)
/* What a record needs in the file beside its body. */
#define JOURNAL_OVERHEAD (12 + JOURNAL_KEY_LEN)

struct journal_segment {
    int fd;          /* -1: no segment */
    char *path;      /* NULL in memory */
    int64_t size;    /* bytes that journal_append wrote; 0 for a segment of an earlier process */
    off_t read_from; /* what lies before is safe elsewhere */
    bool sealed;     /* a write failed: whatever it left is the end of this segment */
    bool corrupt;    /* holds bytes that are no record: kept under another name when discarded */
};

struct journal {
    struct lock lock;
    struct journal_segment current; /* fd, size and sealed under lock */
    char *directory;                /* NULL in memory */
    uint32_t next;                  /* number of the next segment */
};

/* Opens a fresh segment `number` in the directory; NULL: in memory. */
enum err journal_init(struct journal *journal, const char *directory, uint32_t number) MUST_CHECK;
/* The current segment stays on the disk. */
void journal_fini(struct journal *journal);

/* One write(2).  ERR_INVALID: the body is longer than JOURNAL_BODY_MAX.  ERR_IO: not written; the
 * segment takes nothing more, so that no record can follow a torn one, and every append fails until
 * journal_rotate. */
enum err journal_append(struct journal *journal, const char key[JOURNAL_KEY_LEN],
                        struct slice body) MUST_CHECK;
/* There is nothing to move: no record and no failed write in the current segment. */
bool journal_is_idle(struct journal *journal);
bool journal_is_sealed(struct journal *journal);
/* Appends go to a new segment from now on; *old is the one they went to. */
enum err journal_rotate(struct journal *journal, struct journal_segment *old) MUST_CHECK;

/* The numbers of the segments in a directory, ascending; free with mem_free. */
enum err journal_list(const char *directory, uint32_t **numbers, size_t *count) MUST_CHECK;
/* Opens a segment that an earlier process left. */
enum err journal_segment_open(const char *directory, uint32_t number,
                              struct journal_segment *out) MUST_CHECK;
/* Removes the file, or moves it aside if it is corrupt; on failure the segment is as before. */
enum err journal_segment_discard(struct journal_segment *segment) MUST_CHECK;
void journal_segment_close(struct journal_segment *segment);

struct journal_record {
    const char *key; /* JOURNAL_KEY_LEN bytes, not terminated */
    struct slice body;
};

struct journal_reader {
    int fd;
    off_t offset; /* of data[0] in the file */
    char *data;   /* owned */
    size_t room, len, at;
    bool at_end;      /* of the file */
    int64_t gap;      /* bytes passed over since the last record */
    bool gap_is_torn; /* they began as a record does */
    unsigned torn;    /* a last record that was cut off: it was never acknowledged */
    int64_t corrupt;  /* bytes passed over that are no record */
};

/* Reads on at segment->read_from. */
void journal_reader_init(struct journal_reader *reader, const struct journal_segment *segment);
void journal_reader_fini(struct journal_reader *reader);
/* ERR_MISSING at the end.  Passes over what is no record. */
enum err journal_read(struct journal_reader *reader, struct journal_record *out) MUST_CHECK;
/* Where the next journal_read begins. */
off_t journal_reader_position(const struct journal_reader *reader);

#endif
