/* The last good rule list on disk, so that a gateway that starts without a backend still enforces.
 *
 * STATE_DIR/blacklist holds the list as the backend sent it, its ETag and where it came from, with
 * a checksum.  It is replaced as a whole (write, sync, rename), under the lock of
 * STATE_DIR/blacklist.lock, so gateways may share a directory.  The file's time of modification is
 * when the backend last said that this is its list.  A loaded list is the caller's until fini.
 *
 * Any thread that may wait for the disk. */
#ifndef FORWARDER_LAST_GOOD_H
#define FORWARDER_LAST_GOOD_H

#include "buf.h"
#include "http.h"

#define LAST_GOOD_FILE "blacklist"
#define LAST_GOOD_MESSAGE_SIZE 160
/* Of a file whose date lies in the future: older than any age that is allowed. */
#define LAST_GOOD_AGE_UNKNOWN (INT64_MAX / 2)

struct last_good {
    struct buf body;
    char etag[HTTP_ETAG_SIZE]; /* "" where there is none */
    int64_t age_ms;            /* by the wall clock */
};

/* ERR_CLOSED: another gateway writes at this moment, which is as good. */
enum err
last_good_save(const char *directory, const char *source, const char *etag,
               struct slice body) MUST_CHECK;
/* The list that was saved is the backend's list still. */
enum err
last_good_touch(const char *directory) MUST_CHECK;
/* ERR_MISSING: there is none.  All other failures say in message what is wrong: ERR_INVALID for a
 * damaged file and for one from another source. */
enum err
last_good_load(const char *directory, const char *source, size_t max_body, struct last_good *out,
               char message[LAST_GOOD_MESSAGE_SIZE]) MUST_CHECK;
void
last_good_fini(struct last_good *kept);

#endif
