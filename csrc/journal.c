/* A record in the file, little-endian:
 *
 *     0   magic, 4 bytes
 *     4   length of the body, 4
 *     8   CRC-32 of the length, the key and the body, 4
 *    12   key, 36
 *    48   body
 */
#include "journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "buf.h"
#include "io.h"
#include "mem.h"

#define LENGTH_AT 4
#define CRC_AT 8
#define KEY_AT 12
#define HEADER_SIZE 12
#define RECORD_MAX (JOURNAL_OVERHEAD + JOURNAL_BODY_MAX)
/* Records up to this size are built on the stack. */
#define SMALL_RECORD 4096
#define READ_SIZE (64u * 1024u)
#define PATH_SIZE_MAX 4096

/* The first byte never occurs in UTF-8, so a search for it does not stop inside bodies. */
static const char MAGIC[4] = {'\xf5', 'M', 'F', '\x01'};

/* ---- bytes ---- */

static void
put_u32(char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (char)(unsigned char)(value >> (8 * i));
    }
}

static uint32_t
get_u32(const char *at)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        value |= (uint32_t)(unsigned char)at[i] << (8 * i);
    }
    return value;
}

/* CRC-32 as in zip and Ethernet, by half bytes: a table of 16 needs no set-up and is fast enough
 * for a few hundred bytes a request. */
static uint32_t
crc32_update(uint32_t crc, const char *data, size_t len)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= (unsigned char)data[i];
        crc = (crc >> 4) ^ table[crc & 15];
        crc = (crc >> 4) ^ table[crc & 15];
    }
    return ~crc;
}

static uint32_t
record_crc(const char *record, size_t size)
{
    uint32_t crc = crc32_update(0, record + LENGTH_AT, CRC_AT - LENGTH_AT);
    return crc32_update(crc, record + KEY_AT, size - KEY_AT);
}

static void
record_build(char *record, const char *key, struct slice body)
{
    memcpy(record, MAGIC, sizeof MAGIC);
    put_u32(record + LENGTH_AT, (uint32_t)body.len);
    memcpy(record + KEY_AT, key, JOURNAL_KEY_LEN);
    if (body.len > 0) {
        memcpy(record + JOURNAL_OVERHEAD, body.data, body.len);
    }
    put_u32(record + CRC_AT, record_crc(record, JOURNAL_OVERHEAD + body.len));
}

/* ---- segments ---- */

static enum err
segment_path(const char *directory, uint32_t number, char **out)
{
    struct buf path;
    buf_init(&path, PATH_SIZE_MAX);
    enum err err = buf_append_format(&path, "%s/journal-%08x", directory, (unsigned)number);
    if (!err) {
        *out = buf_take(&path, NULL);
        err = *out == NULL ? ERR_MEMORY : ERR_OK;
    }
    buf_fini(&path);
    return err;
}

static enum err
segment_open_flags(const char *directory, uint32_t number, int flags, struct journal_segment *out)
{
    struct journal_segment segment = {.fd = -1};
    enum err err = segment_path(directory, number, &segment.path);
    if (err) {
        return err;
    }
    if ((err = io_open(segment.path, flags, &segment.fd))) {
        mem_free(segment.path);
        return err;
    }
    *out = segment;
    return ERR_OK;
}

static enum err
segment_create(const char *directory, uint32_t number, struct journal_segment *out)
{
    if (directory == NULL) {
        struct journal_segment segment = {.fd = -1};
        enum err err = io_open_anonymous(&segment.fd);
        if (!err) {
            *out = segment;
        }
        return err;
    }
    return segment_open_flags(directory, number, O_RDWR | O_CREAT | O_EXCL | O_APPEND, out);
}

enum err
journal_segment_open(const char *directory, uint32_t number, struct journal_segment *out)
{
    return segment_open_flags(directory, number, O_RDONLY, out);
}

void
journal_segment_close(struct journal_segment *segment)
{
    if (segment->fd >= 0) {
        io_close(segment->fd);
    }
    mem_free(segment->path);
    *segment = (struct journal_segment){.fd = -1};
}

static enum err
move_aside(const char *path)
{
    struct buf aside;
    buf_init(&aside, PATH_SIZE_MAX);
    enum err err = buf_append_format(&aside, "%s.corrupt-%lld", path, (long long)time(NULL));
    if (!err) {
        err = io_rename(path, buf_string(&aside));
    }
    buf_fini(&aside);
    return err;
}

enum err
journal_segment_discard(struct journal_segment *segment)
{
    enum err err = ERR_OK;
    if (segment->path != NULL) {
        err = segment->corrupt ? move_aside(segment->path) : io_unlink(segment->path);
    }
    if (!err) {
        journal_segment_close(segment);
    }
    return err;
}

/* Eight hexadecimal digits, as segment_path writes them, and nothing behind. */
static bool
parse_segment_name(const char *name, uint32_t *number)
{
    static const char prefix[] = "journal-";
    const char *digits = name + sizeof prefix - 1;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0 || strlen(digits) != 8 ||
        strspn(digits, "0123456789abcdef") != 8) {
        return false;
    }
    *number = (uint32_t)strtoul(digits, NULL, 16);
    return true;
}

static int
compare_numbers(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

enum err
journal_list(const char *directory, uint32_t **numbers, size_t *count)
{
    enum err err = ERR_OK;
    struct buf found;
    DIR *dir = opendir(directory);
    if (dir == NULL) {
        return ERR_IO;
    }
    buf_init(&found, SIZE_MAX / 2);
    for (;;) {
        uint32_t number;
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            err = errno != 0 ? ERR_IO : ERR_OK;
            break;
        }
        if (parse_segment_name(entry->d_name, &number) &&
            (err = buf_append(&found, &number, sizeof number))) {
            break;
        }
    }
    closedir(dir);
    if (!err) {
        size_t len;
        char *bytes = buf_take(&found, &len);
        if (bytes == NULL) {
            err = ERR_MEMORY;
        }
        else {
            *numbers = (uint32_t *)(void *)bytes;
            *count = len / sizeof(uint32_t);
            qsort(*numbers, *count, sizeof(uint32_t), compare_numbers);
        }
    }
    buf_fini(&found);
    return err;
}

/* ---- appending ---- */

enum err
journal_init(struct journal *journal, const char *directory, uint32_t number)
{
    char *copy = NULL;
    struct journal_segment segment;
    if (directory != NULL && (copy = mem_string(directory)) == NULL) {
        return ERR_MEMORY;
    }
    enum err err = segment_create(directory, number, &segment);
    if (err) {
        mem_free(copy);
        return err;
    }
    lock_init(&journal->lock);
    journal->current = segment;
    journal->directory = copy;
    journal->next = number + 1;
    return ERR_OK;
}

void
journal_fini(struct journal *journal)
{
    journal_segment_close(&journal->current);
    mem_free(journal->directory);
    journal->directory = NULL;
    lock_fini(&journal->lock);
}

/* The descriptor changes under the lock only, so the write has to be inside it as well. */
static enum err
write_locked(struct journal *journal, const char *record, size_t size)
{
    lock_assert_held(&journal->lock);
    if (journal->current.sealed) {
        errno = EIO;
        return ERR_IO;
    }
    enum err err = io_write(journal->current.fd, record, size);
    if (err) {
        journal->current.sealed = true;
        return err;
    }
    journal->current.size += (int64_t)size;
    return ERR_OK;
}

enum err
journal_append(struct journal *journal, const char key[JOURNAL_KEY_LEN], struct slice body)
{
    char small[SMALL_RECORD];
    char *record = small;
    if (body.len > JOURNAL_BODY_MAX) {
        return ERR_INVALID;
    }
    size_t size = JOURNAL_OVERHEAD + body.len;
    if (size > sizeof small && (record = mem_alloc(size)) == NULL) {
        return ERR_MEMORY;
    }
    record_build(record, key, body);
    lock_take(&journal->lock);
    enum err err = write_locked(journal, record, size);
    lock_drop(&journal->lock);
    if (record != small) {
        mem_free(record);
    }
    return err;
}

bool
journal_is_idle(struct journal *journal)
{
    lock_take(&journal->lock);
    bool idle = journal->current.size == 0 && !journal->current.sealed;
    lock_drop(&journal->lock);
    return idle;
}

bool
journal_is_sealed(struct journal *journal)
{
    lock_take(&journal->lock);
    bool sealed = journal->current.sealed;
    lock_drop(&journal->lock);
    return sealed;
}

enum err
journal_rotate(struct journal *journal, struct journal_segment *old)
{
    struct journal_segment fresh;
    enum err err = segment_create(journal->directory, journal->next, &fresh);
    if (err) {
        return err;
    }
    journal->next++;
    lock_take(&journal->lock);
    *old = journal->current;
    journal->current = fresh;
    lock_drop(&journal->lock);
    return ERR_OK;
}

/* ---- reading ---- */

void
journal_reader_init(struct journal_reader *reader, const struct journal_segment *segment)
{
    *reader = (struct journal_reader){.fd = segment->fd, .offset = segment->read_from};
}

void
journal_reader_fini(struct journal_reader *reader)
{
    mem_free(reader->data);
    reader->data = NULL;
}

off_t
journal_reader_position(const struct journal_reader *reader)
{
    return reader->offset + (off_t)reader->at;
}

static enum err
make_room(struct journal_reader *reader, size_t want)
{
    if (reader->at > 0) {
        memmove(reader->data, reader->data + reader->at, reader->len - reader->at);
        reader->offset += (off_t)reader->at;
        reader->len -= reader->at;
        reader->at = 0;
    }
    if (reader->room >= want) {
        return ERR_OK;
    }
    size_t room = want > READ_SIZE ? want : READ_SIZE;
    char *data = mem_realloc(reader->data, room);
    if (data == NULL) {
        return ERR_MEMORY;
    }
    reader->data = data;
    reader->room = room;
    return ERR_OK;
}

/* Has `want` bytes at hand unless the file ends before. */
static enum err
fill(struct journal_reader *reader, size_t want)
{
    while (reader->len - reader->at < want && !reader->at_end) {
        size_t got;
        enum err err = make_room(reader, want);
        if (err) {
            return err;
        }
        err = io_pread(reader->fd, reader->data + reader->len, reader->room - reader->len,
                       reader->offset + (off_t)reader->len, &got);
        if (err) {
            return err;
        }
        reader->len += got;
        reader->at_end = got == 0;
    }
    return ERR_OK;
}

/* The size that the header at hand states; 0 when it is none. */
static size_t
stated_size(const struct journal_reader *reader)
{
    const char *at = reader->data + reader->at;
    if (reader->len - reader->at < HEADER_SIZE || memcmp(at, MAGIC, sizeof MAGIC) != 0) {
        return 0;
    }
    uint32_t body_len = get_u32(at + LENGTH_AT);
    return body_len > JOURNAL_BODY_MAX ? 0 : JOURNAL_OVERHEAD + (size_t)body_len;
}

/* Goes on to the next byte that may begin a record.  `size` is what the header states, or 0. */
static void
pass_over(struct journal_reader *reader, size_t size)
{
    const char *at = reader->data + reader->at;
    size_t left = reader->len - reader->at;
    if (reader->gap == 0) {
        bool cut_header =
            left < HEADER_SIZE && memcmp(at, MAGIC, left < sizeof MAGIC ? left : sizeof MAGIC) == 0;
        reader->gap_is_torn = cut_header || left < size;
    }
    const char *next = memchr(at + 1, MAGIC[0], left - 1);
    size_t step = next != NULL ? (size_t)(next - at) : left;
    reader->at += step;
    reader->gap += (int64_t)step;
}

static void
end_gap(struct journal_reader *reader, bool end_of_file)
{
    if (reader->gap > 0 && end_of_file && reader->gap_is_torn) {
        reader->torn++;
    }
    else {
        reader->corrupt += reader->gap;
    }
    reader->gap = 0;
}

enum err
journal_read(struct journal_reader *reader, struct journal_record *out)
{
    for (;;) {
        enum err err = fill(reader, HEADER_SIZE);
        if (err) {
            return err;
        }
        if (reader->len == reader->at) {
            end_gap(reader, true);
            return ERR_MISSING;
        }
        size_t size = stated_size(reader);
        if (size > 0 && (err = fill(reader, size))) {
            return err;
        }
        const char *at = reader->data + reader->at;
        if (size > 0 && reader->len - reader->at >= size &&
            get_u32(at + CRC_AT) == record_crc(at, size)) {
            end_gap(reader, false);
            out->key = at + KEY_AT;
            out->body = (struct slice){at + JOURNAL_OVERHEAD, size - JOURNAL_OVERHEAD};
            reader->at += size;
            return ERR_OK;
        }
        pass_over(reader, size);
    }
}
