#include "spool.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <sqlite3.h>

#include "clock.h"
#include "harness.h"

#define PLENTY (64 * 1024 * 1024)

static void
spool_fini(struct spool **spool)
{
    spool_destroy(*spool);
}

static enum err
open_spool(const char *directory, int64_t max_bytes, struct spool **out)
{
    char message[SPOOL_MESSAGE_SIZE] = "";
    struct spool_config config = {.directory = directory, .max_bytes = max_bytes};
    enum err err = spool_create(&config, out, message);
    CHECK((err != ERR_OK) == (message[0] != '\0'));
    return err;
}

#define SPOOL(name, directory, max_bytes)                                                          \
    CLEANUP(spool_fini) struct spool *name = NULL;                                                 \
    TRY(open_spool((directory), (max_bytes), &name))

/* Keys that tell their number. */
static void
make_key(long number, char key[SPOOL_KEY_LEN + 1])
{
    snprintf(key, SPOOL_KEY_LEN + 1, "00000000-0000-4000-8000-%012u", (unsigned)number);
}

static enum err
append(struct spool *spool, long number, const char *body)
{
    char key[SPOOL_KEY_LEN + 1];
    make_key(number, key);
    return spool_append(spool, key, (struct slice){body, strlen(body)});
}

/* Until nothing is half-way. */
static enum err
move_all(struct spool *spool)
{
    enum err err;
    do {
        size_t moved;
        err = spool_move(spool, &moved);
    } while (!err && spool_has_more(spool));
    return err;
}

#define RECORDS_MAX 64

struct records {
    struct spool_record records[RECORDS_MAX];
    size_t count;
};

static void
records_fini(struct records *records)
{
    while (records->count > 0) {
        mem_free(records->records[--records->count].body);
    }
}

static enum err
read_records(struct spool *spool, int64_t after_row, struct records *out)
{
    records_fini(out);
    return spool_read(spool, after_row, out->records, RECORDS_MAX, &out->count);
}

static void
check_record(const struct records *records, size_t index, long number, const char *body)
{
    char key[SPOOL_KEY_LEN + 1];
    make_key(number, key);
    CHECK(index < records->count);
    if (index < records->count) {
        CHECK_STRING(records->records[index].key, key);
        CHECK_STRING(records->records[index].body, body);
        CHECK_INT((long long)records->records[index].body_len, (long long)strlen(body));
    }
}

/* As another process would, with a connection of its own. */
static bool
run_sql(const char *path, const char *sql)
{
    sqlite3 *handle = NULL;
    bool worked = sqlite3_open(path, &handle) == SQLITE_OK &&
                  sqlite3_exec(handle, sql, NULL, NULL, NULL) == SQLITE_OK;
    sqlite3_close(handle);
    return worked;
}

static int
count_files(const char *directory, const char *part)
{
    int count = 0;
    DIR *listing = opendir(directory);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        count += strstr(entry->d_name, part) != NULL;
    }
    if (listing != NULL) {
        closedir(listing);
    }
    return count;
}

/* ---- the plain way ---- */

static void
check_life_of_records(const char *directory)
{
    SPOOL(spool, directory, PLENTY);
    CLEANUP(records_fini) struct records records = {.count = 0};
    size_t moved = 99;
    TRY(spool_move(spool, &moved));
    CHECK_INT((long long)moved, 0);
    TRY(append(spool, 1, "{\"a\":1}"));
    TRY(append(spool, 2, ""));
    TRY(append(spool, 3, "three"));
    CHECK_INT(spool_depth(spool), 3);
    TRY(read_records(spool, 0, &records));
    CHECK_INT((long long)records.count, 0);
    TRY(spool_move(spool, &moved));
    CHECK_INT((long long)moved, 3);
    CHECK_INT(spool_depth(spool), 3);
    TRY(read_records(spool, 0, &records));
    REQUIRE(records.count == 3);
    check_record(&records, 0, 1, "{\"a\":1}");
    check_record(&records, 1, 2, "");
    check_record(&records, 2, 3, "three");
    CHECK(records.records[0].row < records.records[1].row &&
          records.records[1].row < records.records[2].row);
    int64_t rows[] = {records.records[0].row, records.records[2].row};
    TRY(spool_delete(spool, rows, COUNT_OF(rows)));
    CHECK_INT(spool_depth(spool), 1);
    /* Deleted rows' numbers do not come back, or a reader that has passed them would miss the new
     * ones. */
    TRY(append(spool, 4, "four"));
    TRY(spool_move(spool, &moved));
    TRY(read_records(spool, rows[1], &records));
    CHECK_INT((long long)records.count, 1);
    check_record(&records, 0, 4, "four");
    CHECK_STRING(spool_message(spool), "");
    CHECK(spool_is_healthy(spool));
}

static void
test_life_of_records(void)
{
    TEMP_DIR(dir);
    check_life_of_records(dir.path);
}

static void
test_memory_only(void)
{
    check_life_of_records(NULL);
    SPOOL(spool, "", PLENTY);
    CHECK_STRING(spool_place(spool), "memory");
}

static void
test_same_key_twice(void)
{
    TEMP_DIR(dir);
    SPOOL(spool, dir.path, PLENTY);
    CLEANUP(records_fini) struct records records = {.count = 0};
    size_t moved;
    TRY(append(spool, 1, "first"));
    TRY(spool_move(spool, &moved));
    TRY(append(spool, 1, "second"));
    TRY(spool_move(spool, &moved));
    CHECK_INT(spool_depth(spool), 1);
    TRY(read_records(spool, 0, &records));
    CHECK_INT((long long)records.count, 1);
    check_record(&records, 0, 1, "first");
}

static void
test_many_batches(void)
{
    SPOOL(spool, NULL, PLENTY);
    CLEANUP(records_fini) struct records records = {.count = 0};
    size_t moved = 0;
    for (long i = 0; i < 1234; i++) {
        TRY(append(spool, i, "body"));
    }
    TRY(spool_move(spool, &moved));
    CHECK_INT((long long)moved, 1234);
    CHECK_INT(spool_depth(spool), 1234);
    int64_t row = 0;
    long seen = 0;
    for (;;) {
        TRY(read_records(spool, row, &records));
        if (records.count == 0) {
            break;
        }
        for (size_t i = 0; i < records.count; i++) {
            check_record(&records, i, seen++, "body");
        }
        row = records.records[records.count - 1].row;
    }
    CHECK_INT(seen, 1234);
}

static void
test_bury(void)
{
    TEMP_DIR(dir);
    SPOOL(spool, dir.path, PLENTY);
    CLEANUP(records_fini) struct records records = {.count = 0};
    size_t moved;
    TRY(append(spool, 1, "refused"));
    TRY(append(spool, 2, "fine"));
    TRY(spool_move(spool, &moved));
    TRY(read_records(spool, 0, &records));
    REQUIRE(records.count == 2);
    int64_t row = records.records[0].row;
    TRY(spool_bury(spool, row, 422, "{\"detail\":\"no\"}"));
    CHECK_INT(spool_depth(spool), 1);
    TRY(read_records(spool, 0, &records));
    CHECK_INT((long long)records.count, 1);
    check_record(&records, 0, 2, "fine");
    CHECK_INT(spool_bury(spool, row, 422, ""), ERR_MISSING);
    CHECK(spool_message(spool)[0] != '\0');
}

/* ---- restarts ---- */

static void
test_restart(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    {
        SPOOL(spool, dir.path, PLENTY);
        size_t moved;
        TRY(append(spool, 1, "in the database"));
        TRY(spool_move(spool, &moved));
        TRY(append(spool, 2, "in the journal"));
    }
    SPOOL(spool, dir.path, PLENTY);
    CHECK_INT(spool_depth(spool), 2); /* one, and a journal that nobody has read yet */
    CHECK(spool_bytes(spool) > 0);
    TRY(move_all(spool));
    CHECK_INT(spool_depth(spool), 2);
    TRY(read_records(spool, 0, &records));
    CHECK_INT((long long)records.count, 2);
    check_record(&records, 0, 1, "in the database");
    check_record(&records, 1, 2, "in the journal");
    CHECK_STRING(spool_message(spool), "");
    CHECK_INT(count_files(spool_place(spool), "journal-"), 1);
}

static void
test_files_are_private(void)
{
    static const char *const names[] = {"lock", "journal-00000000", "spool.db", "spool.db-wal",
                                        "reserve"};
    TEMP_DIR(dir);
    char base[128];
    snprintf(base, sizeof base, "%s/a/b", dir.path);
    SPOOL(spool, base, PLENTY);
    struct stat info;
    CHECK(stat(spool_place(spool), &info) == 0 && (info.st_mode & 0777) == 0700);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char path[160];
        snprintf(path, sizeof path, "%s/%s", spool_place(spool), names[i]);
        CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0600);
    }
}

static void
test_two_spools_take_two_slots(void)
{
    TEMP_DIR(dir);
    char slot[128];
    SPOOL(first, dir.path, PLENTY);
    {
        SPOOL(second, dir.path, PLENTY);
        snprintf(slot, sizeof slot, "%s/0", dir.path);
        CHECK_STRING(spool_place(first), slot);
        snprintf(slot, sizeof slot, "%s/1", dir.path);
        CHECK_STRING(spool_place(second), slot);
    }
    SPOOL(third, dir.path, PLENTY);
    CHECK_STRING(spool_place(third), slot);
}

static void
test_directory_that_cannot_be_made(void)
{
    char message[SPOOL_MESSAGE_SIZE] = "";
    struct spool_config config = {.directory = "/proc/nothing/here", .max_bytes = PLENTY};
    struct spool *spool = NULL;
    CHECK_INT(spool_create(&config, &spool, message), ERR_IO);
    CHECK(strstr(message, "/proc/nothing/here") != NULL && strstr(message, "No such file") != NULL);
}

/* Appends until it is killed and tells through the pipe what was acknowledged. */
static void
append_for_ever(const char *directory, int pipe_fd)
{
    struct spool *spool;
    if (open_spool(directory, PLENTY, &spool)) {
        _exit(1);
    }
    for (long number = 1;; number++) {
        size_t moved;
        if (append(spool, number, "a body of a usual length, more or less, with some text in it") ||
            write(pipe_fd, &number, sizeof number) != sizeof number ||
            (number % 50 == 0 && spool_move(spool, &moved))) {
            _exit(1);
        }
    }
}

static bool
kill_after(pid_t child, int pipe_fd, long acknowledged, long *last)
{
    long number;
    *last = 0;
    while (*last < acknowledged && read(pipe_fd, &number, sizeof number) == sizeof number) {
        *last = number;
    }
    kill(child, SIGKILL);
    while (read(pipe_fd, &number, sizeof number) == sizeof number) {
        *last = number;
    }
    int status;
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status);
}

static void
check_all_there(const char *directory, long last)
{
    SPOOL(spool, directory, PLENTY);
    TRY(move_all(spool));
    CLEANUP(records_fini) struct records records = {.count = 0};
    long seen = 0;
    for (int64_t row = 0;;) {
        TRY(read_records(spool, row, &records));
        if (records.count == 0) {
            break;
        }
        for (size_t i = 0; i < records.count; i++) {
            char key[SPOOL_KEY_LEN + 1];
            make_key(++seen, key);
            CHECK_STRING(records.records[i].key, key);
        }
        row = records.records[records.count - 1].row;
    }
    /* One more may have been written and not acknowledged. */
    CHECK(seen == last || seen == last + 1);
}

static void
test_kill_loses_nothing(void)
{
    for (int round = 0; round < 8; round++) {
        TEMP_DIR(dir);
        int fds[2];
        long last = 0;
        REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
        pid_t child = fork();
        if (child == 0) {
            append_for_ever(dir.path, fds[1]);
        }
        close(fds[1]);
        bool killed = child > 0 && kill_after(child, fds[0], 30 + 97 * round, &last);
        close(fds[0]);
        REQUIRE(killed);
        CHECK(last >= 30);
        check_all_there(dir.path, last);
    }
}

/* ---- damage ---- */

/* Leaves two records in the journal of slot 0 and gives its path. */
static enum err
leave_journal(const char *directory, char path[128])
{
    struct spool *spool;
    enum err err = open_spool(directory, PLENTY, &spool);
    if (err) {
        return err;
    }
    if (!(err = append(spool, 1, "one"))) {
        err = append(spool, 2, "two");
    }
    spool_destroy(spool);
    snprintf(path, 128, "%s/0/journal-00000000", directory);
    return err;
}

static void
test_torn_tail(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    char path[128];
    struct stat info;
    TRY(leave_journal(dir.path, path));
    CHECK(stat(path, &info) == 0 && truncate(path, info.st_size - 5) == 0);
    SPOOL(spool, dir.path, PLENTY);
    TRY(move_all(spool));
    CHECK(strstr(spool_message(spool), "unfinished") != NULL &&
          strstr(spool_message(spool), path) != NULL);
    TRY(read_records(spool, 0, &records));
    CHECK_INT((long long)records.count, 1);
    check_record(&records, 0, 1, "one");
    CHECK(access(path, F_OK) != 0);
}

static void
test_corrupt_journal_is_kept(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    char path[128];
    TRY(leave_journal(dir.path, path));
    int fd = open(path, O_WRONLY);
    CHECK(pwrite(fd, "garbage", 7, 20) == 7);
    close(fd);
    SPOOL(spool, dir.path, PLENTY);
    TRY(move_all(spool));
    CHECK(strstr(spool_message(spool), "no record") != NULL &&
          strstr(spool_message(spool), path) != NULL);
    TRY(read_records(spool, 0, &records));
    CHECK_INT((long long)records.count, 1);
    check_record(&records, 0, 2, "two");
    CHECK_INT(count_files(spool_place(spool), "journal-00000000.corrupt-"), 1);
}

static void
test_corrupt_database_is_replaced(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    static const char garbage[4096] = "this is no database, but it is as long as one page of it";
    char path[128];
    TRY(leave_journal(dir.path, path));
    snprintf(path, sizeof path, "%s/0/spool.db", dir.path);
    int fd = open(path, O_WRONLY | O_TRUNC);
    CHECK(write(fd, garbage, sizeof garbage) == sizeof garbage);
    close(fd);
    SPOOL(spool, dir.path, PLENTY);
    CHECK(strstr(spool_message(spool), "spool.db.corrupt-") != NULL);
    CHECK_INT(count_files(spool_place(spool), "spool.db.corrupt-"), 1);
    TRY(move_all(spool));
    TRY(read_records(spool, 0, &records));
    CHECK_INT((long long)records.count, 2);
}

/* Overwrites the page of the database that holds the text. */
static bool
damage_page_of(const char *path, const char *text)
{
    enum { PAGE = 4096 };
    char page[PAGE], garbage[PAGE];
    bool found = false;
    int fd = open(path, O_RDWR);
    memset(garbage, 0x5a, sizeof garbage);
    for (off_t at = 0; !found && pread(fd, page, PAGE, at) == PAGE; at += PAGE) {
        found =
            memmem(page, PAGE, text, strlen(text)) != NULL && pwrite(fd, garbage, PAGE, at) == PAGE;
    }
    close(fd);
    return found;
}

/* The same, but found only in use: what comes later must get row numbers after those that readers
 * have seen. */
static void
test_database_breaks_in_use(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    char path[160];
    size_t moved;
    {
        SPOOL(before, dir.path, PLENTY);
        for (long i = 1; i <= RECORDS_MAX; i++) {
            char body[1000];
            snprintf(body, sizeof body, "[%ld]%0900d", i, 0);
            TRY(append(before, i, body));
        }
        TRY(spool_move(before, &moved));
        snprintf(path, sizeof path, "%s/spool.db", spool_place(before));
    }
    REQUIRE(damage_page_of(path, "[40]"));
    SPOOL(spool, dir.path, PLENTY);
    CHECK_STRING(spool_message(spool), "");
    TRY(append(spool, 100, "in the journal meanwhile"));
    CHECK_INT(read_records(spool, 0, &records), ERR_LIBRARY);
    CHECK(strstr(spool_message(spool), "spool.db.corrupt-") != NULL);
    CHECK_INT(count_files(spool_place(spool), "spool.db.corrupt-"), 1);
    TRY(spool_move(spool, &moved));
    CHECK_INT(spool_depth(spool), 1);
    TRY(read_records(spool, RECORDS_MAX, &records));
    CHECK_INT((long long)records.count, 1);
    check_record(&records, 0, 100, "in the journal meanwhile");
    CHECK(spool_is_healthy(spool));
}

/* ---- slots of the dead ---- */

static enum err
adopt_all(struct spool *spool)
{
    bool more = true;
    enum err err = ERR_OK;
    while (!err && more) {
        err = spool_adopt(spool, &more);
    }
    return err;
}

/* A record that waits, one that is dead, and one in the journal, in slot 1. */
static enum err
leave_slot_1(const char *directory)
{
    struct spool *zero = NULL, *one = NULL;
    struct records records = {.count = 0};
    size_t moved;
    enum err err = open_spool(directory, PLENTY, &zero);
    if (!err && !(err = open_spool(directory, PLENTY, &one)) && !(err = append(one, 1, "dead")) &&
        !(err = append(one, 2, "waits")) && !(err = spool_move(one, &moved)) &&
        !(err = read_records(one, 0, &records)) &&
        !(err = spool_bury(one, records.records[0].row, 422, "no"))) {
        err = append(one, 3, "in the journal");
    }
    records_fini(&records);
    spool_destroy(one);
    spool_destroy(zero);
    return err;
}

static void
test_orphan_is_adopted(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    char slot[128];
    snprintf(slot, sizeof slot, "%s/1", dir.path);
    TRY(leave_slot_1(dir.path));
    SPOOL(spool, dir.path, PLENTY);
    CHECK_INT(spool_depth(spool), 0);
    TRY(adopt_all(spool));
    CHECK_INT(spool_depth(spool), 2);
    CHECK_INT(spool_dead(spool), 1);
    TRY(read_records(spool, 0, &records));
    REQUIRE(records.count == 2);
    check_record(&records, 0, 3, "in the journal");
    check_record(&records, 1, 2, "waits");
    /* Nothing is left but the lock, and the slot is free for the next process. */
    CHECK_INT(count_files(slot, "journal-"), 0);
    CHECK_INT(count_files(slot, "spool.db"), 0);
    CHECK_INT(count_files(slot, "reserve"), 0);
    SPOOL(next, dir.path, PLENTY);
    CHECK_STRING(spool_place(next), slot);
    /* A living one's is left alone. */
    TRY(append(next, 4, "of the living"));
    TRY(adopt_all(spool));
    CHECK_INT(spool_depth(spool), 2);
}

/* A full spool adopts nothing: it would be full for its own records. */
static void
test_adopts_only_with_room(void)
{
    TEMP_DIR(dir);
    TRY(leave_slot_1(dir.path));
    SPOOL(spool, dir.path, 1000);
    TRY(adopt_all(spool));
    CHECK_INT(spool_depth(spool), 0);
    CHECK_STRING(spool_message(spool), "");
}

static void
test_orphan_that_cannot_be_read(void)
{
    TEMP_DIR(dir);
    char path[128];
    bool more;
    TRY(leave_slot_1(dir.path));
    snprintf(path, sizeof path, "%s/1/spool.db", dir.path);
    REQUIRE(run_sql(path, "PRAGMA user_version = 99"));
    SPOOL(spool, dir.path, PLENTY);
    bool worked = true;
    for (int i = 0; worked && i < 10; i++) {
        worked = spool_adopt(spool, &more) == ERR_OK;
    }
    CHECK(!worked && strstr(spool_message(spool), "schema version 99") != NULL);
    CHECK_INT(spool_depth(spool), 1); /* its journal is ours by now */
    for (int i = 0; i < 10; i++) {
        (void)!spool_adopt(spool, &more);
        CHECK_STRING(spool_message(spool), ""); /* said once */
    }
}

/* ---- other versions, other writers ---- */

static void
test_version_1_is_migrated(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    char path[128];
    {
        SPOOL(before, dir.path, PLENTY);
        snprintf(path, sizeof path, "%s/spool.db", spool_place(before));
    }
    REQUIRE(unlink(path) == 0);
    REQUIRE(run_sql(path,
                    "CREATE TABLE records (row INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL"
                    " UNIQUE, body BLOB NOT NULL);"
                    "CREATE TABLE dead (row INTEGER PRIMARY KEY, key TEXT NOT NULL, body BLOB NOT"
                    " NULL, status INTEGER NOT NULL, answer TEXT NOT NULL, buried_at REAL NOT NULL);"
                    "INSERT INTO records VALUES (7, '00000000-0000-4000-8000-000000000001', 'old');"
                    "INSERT INTO dead VALUES (3, 'k', 'b', 422, 'no', 1.0);"
                    "PRAGMA user_version = 1"));
    SPOOL(spool, dir.path, PLENTY);
    CHECK_INT(spool_depth(spool), 1);
    CHECK_INT(spool_dead(spool), 1);
    CHECK(spool_oldest_age_ms(spool) < 60000);
    TRY(append(spool, 2, "new"));
    TRY(move_all(spool));
    TRY(read_records(spool, 0, &records));
    REQUIRE(records.count == 2);
    check_record(&records, 0, 1, "old");
    check_record(&records, 1, 2, "new");
    CHECK(records.records[0].row == 7 && records.records[1].row > 7);
}

static void
test_newer_version_is_refused(void)
{
    TEMP_DIR(dir);
    char path[128], message[SPOOL_MESSAGE_SIZE] = "";
    {
        SPOOL(before, dir.path, PLENTY);
        snprintf(path, sizeof path, "%s/spool.db", spool_place(before));
    }
    REQUIRE(run_sql(path, "PRAGMA user_version = 3"));
    struct spool_config config = {.directory = dir.path, .max_bytes = PLENTY};
    struct spool *spool = NULL;
    CHECK_INT(spool_create(&config, &spool, message), ERR_INVALID);
    CHECK(strstr(message, "schema version 3") != NULL);
}

/* What an administrator sends again from the dead letters, with a command in another process. */
static void
test_other_writer_is_noticed(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    char path[128];
    SPOOL(spool, dir.path, PLENTY);
    TRY(append(spool, 1, "refused"));
    TRY(move_all(spool));
    TRY(read_records(spool, 0, &records));
    REQUIRE(records.count == 1);
    int64_t row = records.records[0].row;
    TRY(spool_bury(spool, row, 422, "no"));
    CHECK_INT(spool_depth(spool), 0);
    snprintf(path, sizeof path, "%s/spool.db", spool_place(spool));
    REQUIRE(run_sql(path, "INSERT INTO records (key, body, added_at) SELECT key, body, 0 FROM dead;"
                          "DELETE FROM dead"));
    spool_look(spool);
    CHECK_INT(spool_depth(spool), 1);
    CHECK_INT(spool_dead(spool), 0);
    TRY(read_records(spool, row, &records));
    REQUIRE(records.count == 1);
    check_record(&records, 0, 1, "refused");
}

/* A clock that was put back: nothing is younger than new, and order is by row. */
static void
test_clock_goes_backwards(void)
{
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    char path[128];
    SPOOL(spool, dir.path, PLENTY);
    snprintf(path, sizeof path, "%s/spool.db", spool_place(spool));
    TRY(append(spool, 1, "from the future"));
    TRY(move_all(spool));
    REQUIRE(run_sql(path, "UPDATE records SET added_at = 4e9"));
    TRY(append(spool, 2, "from now"));
    TRY(move_all(spool));
    CHECK_INT(spool_oldest_age_ms(spool), 0);
    TRY(read_records(spool, 0, &records));
    REQUIRE(records.count == 2);
    check_record(&records, 0, 1, "from the future");
    check_record(&records, 1, 2, "from now");
}

static void
test_oldest_age(void)
{
    TEMP_DIR(dir);
    char path[128];
    SPOOL(spool, dir.path, PLENTY);
    snprintf(path, sizeof path, "%s/spool.db", spool_place(spool));
    CHECK_INT(spool_oldest_age_ms(spool), 0);
    TRY(append(spool, 1, "a"));
    TRY(move_all(spool));
    REQUIRE(run_sql(path, "UPDATE records SET added_at = added_at - 3600"));
    spool_look(spool);
    CHECK(spool_oldest_age_ms(spool) >= 3599000 && spool_oldest_age_ms(spool) < 3700000);
}

/* ---- limits and failures ---- */

static void
test_full_drops_the_oldest(void)
{
    static char body[1001];
    TEMP_DIR(dir);
    CLEANUP(records_fini) struct records records = {.count = 0};
    CLEANUP(spool_fini) struct spool *spool = NULL;
    char message[SPOOL_MESSAGE_SIZE] = "";
    struct spool_config config = {
        .directory = dir.path, .max_bytes = 1 << 20, .drops_when_full = true};
    TRY(spool_create(&config, &spool, message));
    memset(body, 'x', sizeof body - 1);
    size_t dropped = 0, total = 0;
    int64_t first_row = 0;
    for (long i = 0; i < 3000; i++) {
        TRY(append(spool, i, body)); /* never refused */
        if (i % 50 == 49) {
            TRY(move_all(spool));
            TRY(read_records(spool, 0, &records));
            first_row = first_row == 0 ? records.records[0].row : first_row;
            TRY(spool_trim(spool, first_row, &dropped));
            total += dropped;
            CHECK(spool_bytes(spool) <= 1 << 20);
        }
    }
    CHECK(spool_is_healthy(spool));
    CHECK(total > 1500);
    CHECK_INT(spool_depth(spool), 3000 - (long long)total);
    TRY(read_records(spool, 0, &records));
    REQUIRE(records.count > 1);
    check_record(&records, 0, 0, body);            /* on its way to the backend */
    check_record(&records, 1, (long)total + 1, body); /* the first of those that are left */
}

/* The disk is full: healthy again only when bytes can be written, not when a file can be made. */
static void
test_disk_has_to_take_bytes(void)
{
    TEMP_DIR(dir);
    SPOOL(spool, dir.path, PLENTY);
    size_t moved;
    io_fail_at(1, ENOSPC);
    CHECK_INT(append(spool, 1, "refused"), ERR_IO);
    CHECK(!spool_is_healthy(spool));
    unsigned long calls = io_asked();
    TRY(spool_move(spool, &moved));
    CHECK(spool_is_healthy(spool));
    calls = io_asked() - calls;
    io_fail_at(1, ENOSPC);
    CHECK_INT(append(spool, 2, "refused"), ERR_IO);
    /* Now the write of the probe fails, which comes before its unlink. */
    io_fail_at(calls - 1, ENOSPC);
    TRY(spool_move(spool, &moved));
    io_fail_at(0, 0);
    CHECK(!spool_is_healthy(spool));
    TRY(spool_move(spool, &moved));
    CHECK(spool_is_healthy(spool));
    CHECK_INT(count_files(spool_place(spool), "probe"), 0);
}

static void
test_full(void)
{
    static char body[1001];
    TEMP_DIR(dir);
    SPOOL(spool, dir.path, 200 * 1000);
    CLEANUP(records_fini) struct records records = {.count = 0};
    memset(body, 'x', sizeof body - 1);
    long count = 0;
    size_t moved;
    enum err err;
    CHECK(spool_is_healthy(spool));
    while (!(err = append(spool, count + 1, body))) {
        REQUIRE(++count < 1000);
    }
    CHECK_INT(err, ERR_LIMIT);
    CHECK(count > 100);
    CHECK(!spool_is_healthy(spool));
    TRY(spool_move(spool, &moved));
    CHECK_INT((long long)moved, count);
    CHECK(!spool_is_healthy(spool));
    CHECK_INT(append(spool, 2000, body), ERR_LIMIT);
    while (count > 0) {
        int64_t rows[RECORDS_MAX];
        TRY(read_records(spool, 0, &records));
        REQUIRE(records.count > 0);
        for (size_t i = 0; i < records.count; i++) {
            rows[i] = records.records[i].row;
        }
        TRY(spool_delete(spool, rows, records.count));
        count -= (long)records.count;
    }
    CHECK(spool_is_healthy(spool));
    TRY(append(spool, 3000, body));
    CHECK_INT(spool_depth(spool), 1);
}

static void
test_oversized_record_harms_nobody(void)
{
    static char body[2 * 1024 * 1024];
    SPOOL(spool, NULL, PLENTY);
    char key[SPOOL_KEY_LEN + 1];
    make_key(1, key);
    CHECK_INT(spool_append(spool, key, (struct slice){body, sizeof body}), ERR_INVALID);
    CHECK(spool_is_healthy(spool));
    CHECK_INT(spool_depth(spool), 0);
}

static void
test_write_failure(void)
{
    static const int errors[] = {ENOSPC, EIO};
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        TEMP_DIR(dir);
        SPOOL(spool, dir.path, PLENTY);
        CLEANUP(records_fini) struct records records = {.count = 0};
        size_t moved;
        TRY(append(spool, 1, "before"));
        io_fail_at(1, errors[i]);
        CHECK_INT(append(spool, 2, "refused"), ERR_IO);
        CHECK(!spool_is_healthy(spool));
        CHECK_INT(append(spool, 3, "refused as well"), ERR_IO);
        TRY(spool_move(spool, &moved));
        CHECK_INT((long long)moved, 1);
        CHECK_STRING(spool_message(spool), "");
        CHECK(spool_is_healthy(spool));
        TRY(append(spool, 4, "after"));
        TRY(spool_move(spool, &moved));
        TRY(read_records(spool, 0, &records));
        CHECK_INT((long long)records.count, 2);
        check_record(&records, 0, 1, "before");
        check_record(&records, 1, 4, "after");
        CHECK_INT(spool_depth(spool), 2);
    }
}

/* Whatever call of a move fails: the next move goes on, and each record is there once. */
static void
test_move_is_resumed(void)
{
    for (unsigned long nth = 1;; nth++) {
        TEMP_DIR(dir);
        SPOOL(spool, dir.path, PLENTY);
        CLEANUP(records_fini) struct records records = {.count = 0};
        size_t moved = 0;
        TRY(append(spool, 1, "one"));
        TRY(append(spool, 2, "two"));
        io_fail_at(nth, EIO);
        enum err err = spool_move(spool, &moved);
        bool struck = io_asked() >= nth;
        io_fail_at(0, 0);
        if (!struck) {
            TRY(err);
            CHECK(nth > 2);
            break;
        }
        CHECK_INT(err, ERR_IO);
        CHECK(strstr(spool_message(spool), strerror(EIO)) != NULL);
        TRY(append(spool, 3, "three"));
        TRY(spool_move(spool, &moved));
        TRY(spool_move(spool, &moved));
        CHECK_INT(spool_depth(spool), 3);
        TRY(read_records(spool, 0, &records));
        CHECK_INT((long long)records.count, 3);
        CHECK(spool_is_healthy(spool));
    }
}

/* ---- threads ---- */

#define CONCURRENT 3000

static void *
append_main(void *context)
{
    struct spool *spool = context;
    for (long i = 0; i < CONCURRENT; i++) {
        CHECK_INT(append(spool, i, "from the other thread"), ERR_OK);
    }
    return NULL;
}

static void
test_append_while_moving(void)
{
    TEMP_DIR(dir);
    SPOOL(spool, dir.path, PLENTY);
    pthread_t thread;
    size_t total = 0, moved;
    int rc = pthread_create(&thread, NULL, append_main, spool);
    REQUIRE(rc == 0);
    enum err err = ERR_OK;
    for (double since = harness_seconds();
         !err && total < CONCURRENT && harness_seconds() - since < WAIT_SECONDS;) {
        err = spool_move(spool, &moved);
        total += err ? 0 : moved;
        CHECK(spool_is_healthy(spool));
    }
    pthread_join(thread, NULL);
    TRY(err);
    CHECK_INT((long long)total, CONCURRENT);
    CHECK_INT(spool_depth(spool), CONCURRENT);
}

/* ---- speed: printed, not judged ---- */

static int
compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void
test_print_append_time(void)
{
    enum { ROUNDS = 5000 };
    static double us[ROUNDS];
    static char body[301];
    TEMP_DIR(dir);
    SPOOL(spool, dir.path, PLENTY);
    memset(body, 'x', sizeof body - 1);
    for (int i = 0; i < ROUNDS; i++) {
        double start = harness_seconds();
        TRY(append(spool, i, body));
        us[i] = (harness_seconds() - start) * 1e6;
    }
    qsort(us, ROUNDS, sizeof us[0], compare_doubles);
    printf("append of 300 bytes: p50 %.1f us, p99 %.1f us\n", us[ROUNDS / 2],
           us[ROUNDS * 99 / 100]);
}

static void
test_library_version(void)
{
    CHECK(strchr(spool_library_version(), '.') != NULL);
}

TESTS(TEST(life_of_records), TEST(memory_only), TEST(same_key_twice),
      TEST_WITHOUT_CHAOS(many_batches), TEST(bury), TEST(restart), TEST(files_are_private),
      TEST(two_spools_take_two_slots), TEST_WITHOUT_CHAOS(directory_that_cannot_be_made),
      TEST_WITHOUT_CHAOS(kill_loses_nothing), TEST(torn_tail), TEST(corrupt_journal_is_kept),
      TEST(corrupt_database_is_replaced), TEST_WITHOUT_CHAOS(database_breaks_in_use),
      TEST(orphan_is_adopted), TEST(adopts_only_with_room),
      TEST_WITHOUT_CHAOS(orphan_that_cannot_be_read), TEST(version_1_is_migrated),
      TEST(newer_version_is_refused), TEST(other_writer_is_noticed), TEST(clock_goes_backwards),
      TEST(oldest_age), TEST_WITHOUT_CHAOS(full_drops_the_oldest),
      TEST_WITHOUT_CHAOS(disk_has_to_take_bytes), TEST_WITHOUT_CHAOS(full), TEST(oversized_record_harms_nobody),
      TEST_WITHOUT_CHAOS(write_failure), TEST_WITHOUT_CHAOS(move_is_resumed),
      TEST_WITHOUT_CHAOS(append_while_moving), TEST_WITHOUT_CHAOS(print_append_time),
      TEST(library_version))
