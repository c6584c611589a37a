#include "last_good.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "harness.h"

#define SOURCE "http://backend.test/blacklist"
#define LIST "[{\"id\": 1, \"pattern\": \"x\"}]"
#define MAX 1000

static char message[LAST_GOOD_MESSAGE_SIZE];

static void
file_in(const struct temp_dir *dir, const char *name, char path[100])
{
    snprintf(path, 100, "%s/state/%s", dir->path, name);
}

static enum err
save(const struct temp_dir *dir, const char *list)
{
    char directory[100];
    file_in(dir, "", directory);
    return last_good_save(directory, SOURCE, "\"v1\"", (struct slice){list, strlen(list)});
}

static enum err
load(const struct temp_dir *dir, struct last_good *out)
{
    char directory[100];
    file_in(dir, "", directory);
    return last_good_load(directory, SOURCE, MAX, out, message);
}

static void
test_round(void)
{
    TEMP_DIR(dir);
    char path[100];
    struct stat info;
    CLEANUP(last_good_fini) struct last_good kept = {.age_ms = -1};
    CHECK_INT(load(&dir, &kept), ERR_MISSING);
    TRY(save(&dir, "[]"));
    TRY(save(&dir, LIST));
    TRY(load(&dir, &kept));
    CHECK_STRING(buf_string(&kept.body), LIST);
    CHECK_STRING(kept.etag, "\"v1\"");
    CHECK(kept.age_ms >= 0 && kept.age_ms < 60000);
    file_in(&dir, LAST_GOOD_FILE, path);
    REQUIRE(stat(path, &info) == 0);
    CHECK_INT(info.st_mode & 0777, 0600);
}

static void
set_age(const char *path, int seconds)
{
    struct timespec times[2] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
}

static void
check_age(const struct temp_dir *dir, int64_t low_ms, int64_t high_ms)
{
    CLEANUP(last_good_fini) struct last_good kept = {.age_ms = -1};
    TRY(load(dir, &kept));
    CHECK(kept.age_ms >= low_ms);
    CHECK(kept.age_ms <= high_ms);
}

static void
test_age(void)
{
    TEMP_DIR(dir);
    char path[100], directory[100];
    file_in(&dir, LAST_GOOD_FILE, path);
    file_in(&dir, "", directory);
    TRY(save(&dir, LIST));
    set_age(path, 3600);
    check_age(&dir, 3600 * 1000, 3660 * 1000);
    set_age(path, -3600);
    check_age(&dir, LAST_GOOD_AGE_UNKNOWN, LAST_GOOD_AGE_UNKNOWN);
    TRY(last_good_touch(directory));
    check_age(&dir, 0, 60 * 1000);
}

/* Every byte counts, and so does every length. */
static void
test_damage(void)
{
    TEMP_DIR(dir);
    char path[100], byte;
    struct stat info;
    file_in(&dir, LAST_GOOD_FILE, path);
    TRY(save(&dir, LIST));
    REQUIRE(stat(path, &info) == 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0);
    for (off_t at = 0; at < info.st_size; at++) {
        struct last_good kept;
        bool flipped = pread(fd, &byte, 1, at) == 1 && (byte ^= 1, pwrite(fd, &byte, 1, at) == 1);
        CHECK(flipped);
        CHECK_INT(load(&dir, &kept), ERR_INVALID);
        byte ^= 1;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
    }
    for (off_t size = info.st_size - 1; size >= 0; size--) {
        struct last_good kept;
        CHECK(ftruncate(fd, size) == 0);
        CHECK_INT(load(&dir, &kept), ERR_INVALID);
    }
    CHECK_STRING(message, "it is damaged");
    close(fd);
}

static void
test_refused(void)
{
    TEMP_DIR(dir);
    char directory[100], path[100];
    struct last_good kept;
    file_in(&dir, "", directory);
    TRY(save(&dir, LIST));
    CHECK_INT(last_good_load(directory, "http://other.test/blacklist", MAX, &kept, message),
              ERR_INVALID);
    CHECK(harness_struck() || strstr(message, "another") != NULL);
    CHECK_INT(last_good_load(directory, SOURCE, 3, &kept, message), ERR_INVALID);
    /* While another process writes. */
    file_in(&dir, LAST_GOOD_FILE ".lock", path);
    int fd;
    TRY(io_open(path, O_RDWR, &fd));
    enum err err = io_lock(fd);
    if (!err) {
        CHECK_INT(save(&dir, "[]"), ERR_CLOSED);
    }
    io_close(fd);
    TRY(err);
}

/* A write that fails leaves the file as it was. */
static void
test_failed_write(void)
{
    TEMP_DIR(dir);
    TRY(save(&dir, LIST));
    unsigned long nth = 0, asked;
    unsigned failures = 0;
    do {
        CLEANUP(last_good_fini) struct last_good kept = {.age_ms = -1};
        TRY(save(&dir, LIST));
        io_fail_at(++nth, ENOSPC);
        enum err err = save(&dir, "[]");
        asked = io_asked();
        io_fail_at(0, 0);
        failures += err != ERR_OK;
        TRY(load(&dir, &kept));
        CHECK_STRING(buf_string(&kept.body), err ? LIST : "[]");
    } while (asked >= nth);
    CHECK(failures >= 7); /* two opened, three written, synced, renamed */
}

TESTS(TEST(round), TEST(age), TEST_WITHOUT_CHAOS(damage), TEST(refused),
      TEST_WITHOUT_CHAOS(failed_write))
