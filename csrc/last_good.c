#include "last_good.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "io.h"
#include "mem.h"

/* The file: MAGIC, the checksum of all that follows it as 16 digits and a newline, then source and
 * ETag, a line each, then the list. */
#define MAGIC "mitm-forwarder blacklist 1\n"
#define MAGIC_LEN (sizeof MAGIC - 1)
#define SUM_LEN 17
#define SOURCE_MAX 4096
#define HEAD_MAX (SOURCE_MAX + HTTP_ETAG_SIZE + 2)
#define PATH_MAX_LEN 4096
/* Clocks of machines that share a directory may differ by that. */
#define FUTURE_ALLOWED_MS 60000

/* FNV-1a, against torn writes and rotten disks. */
static uint64_t
checksum(uint64_t sum, struct slice bytes)
{
    for (size_t i = 0; i < bytes.len; i++) {
        sum = (sum ^ (unsigned char)bytes.data[i]) * UINT64_C(0x100000001b3);
    }
    return sum;
}

#define CHECKSUM_START UINT64_C(0xcbf29ce484222325)

static enum err
path_in(const char *directory, const char *suffix, struct buf *out)
{
    buf_init(out, PATH_MAX_LEN);
    return buf_append_format(out, "%s/" LAST_GOOD_FILE "%s", directory, suffix);
}

static enum err
open_in(const char *directory, const char *suffix, int flags, int *fd)
{
    struct buf path;
    enum err err = path_in(directory, suffix, &path);
    if (!err) {
        err = io_open(buf_string(&path), flags, fd);
    }
    buf_fini(&path);
    return err;
}

/* ---- writing ---- */

static enum err
write_all(int fd, const char *source, const char *etag, struct slice body)
{
    struct buf head, start;
    buf_init(&head, HEAD_MAX);
    buf_init(&start, MAGIC_LEN + SUM_LEN);
    enum err err = buf_append_format(&head, "%s\n%s\n", source, etag);
    if (!err) {
        uint64_t sum = checksum(checksum(CHECKSUM_START, buf_slice(&head)), body);
        err = buf_append_format(&start, MAGIC "%016" PRIx64 "\n", sum);
    }
    if (!err) {
        err = io_write(fd, buf_string(&start), start.len);
    }
    if (!err) {
        err = io_write(fd, buf_string(&head), head.len);
    }
    if (!err && body.len > 0) {
        err = io_write(fd, body.data, body.len);
    }
    buf_fini(&head);
    buf_fini(&start);
    return err ? err : io_sync(fd);
}

/* The lock is held. */
static enum err
replace_locked(const char *directory, const char *source, const char *etag, struct slice body)
{
    struct buf fresh, path;
    int fd;
    enum err err = path_in(directory, "", &path);
    buf_init(&fresh, 0);
    if (!err) {
        err = path_in(directory, ".new", &fresh);
    }
    if (!err) {
        err = io_open(buf_string(&fresh), O_WRONLY | O_CREAT | O_TRUNC, &fd);
    }
    if (!err) {
        err = write_all(fd, source, etag, body);
        io_close(fd);
    }
    if (!err) {
        err = io_rename(buf_string(&fresh), buf_string(&path));
    }
    buf_fini(&fresh);
    buf_fini(&path);
    return err;
}

enum err
last_good_save(const char *directory, const char *source, const char *etag, struct slice body)
{
    int lock;
    enum err err = io_make_directories(directory);
    if (!err) {
        err = open_in(directory, ".lock", O_RDWR | O_CREAT, &lock);
    }
    if (err) {
        return err;
    }
    err = io_lock(lock);
    if (!err) {
        err = replace_locked(directory, source, etag, body);
    }
    io_close(lock);
    return err;
}

enum err
last_good_touch(const char *directory)
{
    int fd;
    enum err err = open_in(directory, "", O_WRONLY, &fd);
    if (!err) {
        err = io_touch(fd);
        io_close(fd);
    }
    return err;
}

/* ---- reading ---- */

static enum err
read_all(int fd, size_t max, struct buf *out)
{
    off_t size;
    enum err err = io_size(fd, &size);
    if (!err && (uintmax_t)size > max) {
        return ERR_LIMIT;
    }
    char *text = err ? NULL : mem_alloc((size_t)size + 1);
    if (text == NULL) {
        return err ? err : ERR_MEMORY;
    }
    size_t len = 0, got = 1;
    while (!err && got > 0 && len < (size_t)size) {
        err = io_pread(fd, text + len, (size_t)size - len, (off_t)len, &got);
        len += err ? 0 : got;
    }
    if (!err) {
        buf_init(out, max);
        err = buf_append(out, text, len);
    }
    mem_free(text);
    return err;
}

/* Takes the line off the text; its newline is in neither. */
static bool
take_line(struct slice *text, struct slice *line)
{
    const char *end = text->len > 0 ? memchr(text->data, '\n', text->len) : NULL;
    if (end == NULL) {
        return false;
    }
    *line = (struct slice){text->data, (size_t)(end - text->data)};
    *text = (struct slice){end + 1, text->len - line->len - 1};
    return true;
}

static bool
is_intact(struct slice *text)
{
    struct slice sum;
    char wanted[SUM_LEN];
    if (text->len < MAGIC_LEN || memcmp(text->data, MAGIC, MAGIC_LEN) != 0) {
        return false;
    }
    *text = (struct slice){text->data + MAGIC_LEN, text->len - MAGIC_LEN};
    if (!take_line(text, &sum)) {
        return false;
    }
    snprintf(wanted, sizeof wanted, "%016" PRIx64, checksum(CHECKSUM_START, *text));
    return sum.len == SUM_LEN - 1 && memcmp(sum.data, wanted, sum.len) == 0;
}

static enum err
parse(struct slice text, const char *wanted_source, size_t max_body, struct last_good *out,
      const char **why)
{
    struct slice source, etag;
    *why = "it is damaged";
    if (!is_intact(&text) || !take_line(&text, &source) || !take_line(&text, &etag)
        || etag.len >= sizeof out->etag) {
        return ERR_INVALID;
    }
    if (source.len != strlen(wanted_source)
        || memcmp(source.data, wanted_source, source.len) != 0) {
        *why = "it is the list of another FASTAPI_BASE_URL";
        return ERR_INVALID;
    }
    if (text.len > max_body) {
        *why = "it is larger than BLACKLIST_MAX_BYTES";
        return ERR_INVALID;
    }
    memcpy(out->etag, etag.data, etag.len);
    out->etag[etag.len] = '\0';
    buf_init(&out->body, text.len);
    return buf_append_slice(&out->body, text);
}

static int64_t
age_of(double modified_wall)
{
    double age_ms = (clock_wall_seconds() - modified_wall) * 1000.0;
    if (age_ms < -FUTURE_ALLOWED_MS || age_ms > (double)LAST_GOOD_AGE_UNKNOWN) {
        return LAST_GOOD_AGE_UNKNOWN;
    }
    return age_ms > 0 ? (int64_t)age_ms : 0;
}

enum err
last_good_load(const char *directory, const char *source, size_t max_body, struct last_good *out,
               char message[LAST_GOOD_MESSAGE_SIZE])
{
    int fd = -1;
    size_t max;
    double modified = 0;
    const char *why = NULL;
    struct buf text;
    struct last_good kept;
    buf_init(&text, 0);
    enum err err = size_add(max_body, MAGIC_LEN + SUM_LEN + HEAD_MAX, &max) ? ERR_OK : ERR_LIMIT;
    if (!err) {
        err = open_in(directory, "", O_RDONLY, &fd);
    }
    if (err == ERR_IO && errno == ENOENT) {
        return ERR_MISSING;
    }
    if (!err) {
        err = io_modified(fd, &modified);
    }
    if (!err) {
        err = read_all(fd, max, &text);
    }
    if (!err) {
        err = parse(buf_slice(&text), source, max_body, &kept, &why);
    }
    if (err) {
        const char *system = err == ERR_IO ? strerror(errno) : err_text(err);
        snprintf(message, LAST_GOOD_MESSAGE_SIZE, "%s", why != NULL ? why : system);
    }
    else {
        kept.age_ms = age_of(modified);
        *out = kept;
    }
    if (fd >= 0) {
        io_close(fd);
    }
    buf_fini(&text);
    return err;
}

void
last_good_fini(struct last_good *kept)
{
    buf_fini(&kept->body);
}
