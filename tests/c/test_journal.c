#include "journal.h"

#include <fcntl.h>

#include "harness.h"

static const char KEY[] = "0b8f1c9e-8a52-4f3c-9a39-2f5f3a0c1d11";

/* A fini that may be called before the init. */
struct opened {
    struct journal journal;
    struct journal_segment old;
    bool open;
};

static void
opened_fini(struct opened *opened)
{
    if (opened->open) {
        journal_fini(&opened->journal);
    }
    journal_segment_close(&opened->old);
}

#define JOURNAL(name, directory)                                                                   \
    CLEANUP(opened_fini) struct opened name = {.old = {.fd = -1}};                                 \
    TRY(journal_init(&name.journal, (directory), 7));                                              \
    name.open = true

static enum err
append(struct journal *journal, const char *body)
{
    return journal_append(journal, KEY, (struct slice){body, strlen(body)});
}

struct content {
    char bodies[256]; /* each followed by a blank */
    unsigned torn;
    int64_t corrupt;
};

static enum err
read_all(const struct journal_segment *segment, struct content *out)
{
    struct journal_reader reader;
    struct journal_record record;
    enum err err;
    struct content content = {0};
    journal_reader_init(&reader, segment);
    while (!(err = journal_read(&reader, &record))) {
        size_t len = strlen(content.bodies);
        snprintf(content.bodies + len, sizeof content.bodies - len, "%.*s ", (int)record.body.len,
                 record.body.data);
        CHECK(memcmp(record.key, KEY, JOURNAL_KEY_LEN) == 0);
    }
    content.torn = reader.torn;
    content.corrupt = reader.corrupt;
    journal_reader_fini(&reader);
    *out = content;
    return err == ERR_MISSING ? ERR_OK : err;
}

/* Puts bytes into a segment as a disk might leave them. */
static void
patch(const struct journal_segment *segment, off_t offset, const char *bytes, size_t len)
{
    int fd = open(segment->path, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, bytes, len, offset) == (ssize_t)len);
    close(fd);
}

static void
test_append_and_read(void)
{
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    struct content content;
    CHECK(journal_is_idle(&opened.journal));
    TRY(append(&opened.journal, "one"));
    TRY(append(&opened.journal, ""));
    TRY(append(&opened.journal, "three"));
    CHECK(!journal_is_idle(&opened.journal));
    TRY(journal_rotate(&opened.journal, &opened.old));
    CHECK(journal_is_idle(&opened.journal));
    CHECK_INT(opened.old.size, 3 * JOURNAL_OVERHEAD + 8);
    TRY(read_all(&opened.old, &content));
    CHECK_STRING(content.bodies, "one  three ");
    CHECK_INT(content.torn, 0);
    CHECK_INT(content.corrupt, 0);
}

static void
test_in_memory(void)
{
    JOURNAL(opened, NULL);
    struct content content;
    TRY(append(&opened.journal, "one"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    TRY(read_all(&opened.old, &content));
    CHECK_STRING(content.bodies, "one ");
    TRY(journal_segment_discard(&opened.old));
    CHECK_INT(opened.old.fd, -1);
}

static void
test_large_bodies(void)
{
    static char large[JOURNAL_BODY_MAX + 1];
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    struct journal_reader reader;
    struct journal_record record = {0};
    memset(large, '\xf5', sizeof large); /* nothing but first bytes of a magic */
    CHECK_INT(journal_append(&opened.journal, KEY, (struct slice){large, JOURNAL_BODY_MAX + 1}),
              ERR_INVALID);
    CHECK(journal_is_idle(&opened.journal));
    TRY(journal_append(&opened.journal, KEY, (struct slice){large, JOURNAL_BODY_MAX}));
    TRY(append(&opened.journal, "small"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    journal_reader_init(&reader, &opened.old);
    enum err first = journal_read(&reader, &record);
    bool same = !first && record.body.len == JOURNAL_BODY_MAX &&
                memcmp(record.body.data, large, record.body.len) == 0;
    enum err second = journal_read(&reader, &record);
    bool small = !second && record.body.len == 5;
    journal_reader_fini(&reader);
    TRY(first);
    TRY(second);
    CHECK(same && small);
}

static void
test_torn_tail(void)
{
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    struct content content;
    TRY(append(&opened.journal, "one"));
    TRY(append(&opened.journal, "two"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    /* Cut anywhere within the second record. */
    for (off_t size = 2 * (JOURNAL_OVERHEAD + 3) - 1; size > JOURNAL_OVERHEAD + 3; size--) {
        CHECK(truncate(opened.old.path, size) == 0);
        TRY(read_all(&opened.old, &content));
        CHECK_STRING(content.bodies, "one ");
        CHECK_INT(content.torn, 1);
        CHECK_INT(content.corrupt, 0);
    }
}

static void
test_corrupt_middle(void)
{
    static const int size = JOURNAL_OVERHEAD + 3;
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    struct content content;
    TRY(append(&opened.journal, "one"));
    TRY(append(&opened.journal, "two"));
    TRY(append(&opened.journal, "six"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    /* Any byte of the second record changed: the magic, the length, the checksum, the key, the
     * body. */
    for (int at = 0; at < size; at++) {
        char byte = 0;
        int fd = open(opened.old.path, O_RDONLY);
        CHECK(pread(fd, &byte, 1, size + at) == 1);
        close(fd);
        patch(&opened.old, size + at, (const char[]){(char)(byte ^ 0x55)}, 1);
        TRY(read_all(&opened.old, &content));
        CHECK_STRING(content.bodies, "one six ");
        CHECK_INT(content.torn, 0);
        CHECK_INT(content.corrupt, size);
        patch(&opened.old, size + at, &byte, 1);
    }
}

static void
test_corrupt_end_is_not_called_torn(void)
{
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    struct content content;
    TRY(append(&opened.journal, "one"));
    TRY(append(&opened.journal, "two"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    patch(&opened.old, 2 * (JOURNAL_OVERHEAD + 3) - 1, "X", 1);
    TRY(read_all(&opened.old, &content));
    CHECK_STRING(content.bodies, "one ");
    CHECK_INT(content.torn, 0);
    CHECK_INT(content.corrupt, JOURNAL_OVERHEAD + 3);
}

static void
test_reading_goes_on_where_it_stopped(void)
{
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    struct journal_reader reader;
    struct journal_record record;
    struct content content;
    TRY(append(&opened.journal, "one"));
    TRY(append(&opened.journal, "two"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    journal_reader_init(&reader, &opened.old);
    enum err err = journal_read(&reader, &record);
    opened.old.read_from = journal_reader_position(&reader);
    journal_reader_fini(&reader);
    TRY(err);
    TRY(read_all(&opened.old, &content));
    CHECK_STRING(content.bodies, "two ");
}

/* Half of a record is in the file: nothing may follow it there, and the next segment is clean. */
static void
test_failed_write(void)
{
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    struct content content;
    TRY(append(&opened.journal, "one"));
    io_fail_at(1, ENOSPC);
    CHECK_INT(append(&opened.journal, "two"), ERR_IO);
    CHECK(journal_is_sealed(&opened.journal));
    CHECK_INT(append(&opened.journal, "three"), ERR_IO);
    TRY(journal_rotate(&opened.journal, &opened.old));
    CHECK(opened.old.sealed && !journal_is_sealed(&opened.journal));
    TRY(read_all(&opened.old, &content));
    CHECK_STRING(content.bodies, "one ");
    CHECK_INT(content.torn, 1);
    TRY(append(&opened.journal, "four"));
    TRY(journal_segment_discard(&opened.old));
    TRY(journal_rotate(&opened.journal, &opened.old));
    TRY(read_all(&opened.old, &content));
    CHECK_STRING(content.bodies, "four ");
}

static void
touch(const char *directory, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0);
    close(fd);
}

static void
free_numbers(uint32_t **numbers)
{
    mem_free(*numbers);
}

static void
test_list(void)
{
    TEMP_DIR(dir);
    CLEANUP(free_numbers) uint32_t *numbers = NULL;
    size_t count = 0;
    CHECK_INT(journal_list("/nonexistent", &numbers, &count), ERR_IO);
    touch(dir.path, "journal-0000000b");
    touch(dir.path, "journal-00000002");
    touch(dir.path, "journal-ffffffff");
    touch(dir.path, "journal-00000003.corrupt-1");
    touch(dir.path, "journal-3");
    touch(dir.path, "journal-0000000B");
    touch(dir.path, "journal-");
    touch(dir.path, "spool.db");
    TRY(journal_list(dir.path, &numbers, &count));
    REQUIRE(count == 3);
    CHECK(numbers[0] == 2 && numbers[1] == 11 && numbers[2] == UINT32_MAX);
}

static void
test_discard(void)
{
    TEMP_DIR(dir);
    JOURNAL(opened, dir.path);
    char path[128];
    uint32_t *numbers = NULL;
    size_t count = 0;
    TRY(append(&opened.journal, "one"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    snprintf(path, sizeof path, "%s", opened.old.path);
    CHECK(strstr(path, "/journal-00000007") != NULL);
    CHECK(access(path, F_OK) == 0);
    TRY(journal_segment_discard(&opened.old));
    CHECK(access(path, F_OK) != 0);
    CHECK_INT(opened.old.fd, -1);
    /* A corrupt one is kept, and is no segment any more. */
    TRY(append(&opened.journal, "two"));
    TRY(journal_rotate(&opened.journal, &opened.old));
    opened.old.corrupt = true;
    TRY(journal_segment_discard(&opened.old));
    enum err err = journal_list(dir.path, &numbers, &count);
    bool only_current = !err && count == 1 && numbers[0] == 9;
    mem_free(numbers);
    TRY(err);
    CHECK(only_current);
}

TESTS(TEST(append_and_read), TEST(in_memory), TEST(large_bodies), TEST(torn_tail),
      TEST(corrupt_middle), TEST(corrupt_end_is_not_called_torn),
      TEST(reading_goes_on_where_it_stopped), TEST_WITHOUT_CHAOS(failed_write), TEST(list),
      TEST(discard))
