#include "io.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "harness.h"

struct path {
    char text[256];
};

static struct path
path_in(const struct temp_dir *dir, const char *name)
{
    struct path path;
    snprintf(path.text, sizeof path.text, "%s/%s", dir->path, name);
    return path;
}

static void
close_file(int *fd)
{
    if (*fd >= 0) {
        io_close(*fd);
    }
}

#define FILE_IN(dir, fd, name)          \
    CLEANUP(close_file) int fd = -1;    \
    TRY(io_open(path_in(&(dir), name).text, O_RDWR | O_CREAT, &fd))

static unsigned
mode_of(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? info.st_mode & 0777 : 0;
}

static bool
exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void
test_files_are_private_and_close_on_exec(void)
{
    TEMP_DIR(dir);
    mode_t old = umask(0);
    struct path path = path_in(&dir, "file");
    CLEANUP(close_file) int fd = -1;
    enum err err = io_open(path.text, O_RDWR | O_CREAT, &fd);
    umask(old);
    TRY(err);
    CHECK_INT(mode_of(path.text), 0600);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void
test_failed_open_leaves_the_descriptor(void)
{
    TEMP_DIR(dir);
    int fd = 77;
    CHECK(io_open(path_in(&dir, "missing").text, O_RDONLY, &fd) == ERR_IO);
    CHECK_INT(errno, ENOENT);
    CHECK_INT(fd, 77);
}

static void
test_write_then_read(void)
{
    TEMP_DIR(dir);
    FILE_IN(dir, fd, "file");
    char text[10] = "";
    size_t got = 99;
    off_t size = -1;
    TRY(io_write(fd, "hello ", 6));
    TRY(io_write(fd, "world", 5));
    TRY(io_write(fd, NULL, 0));
    TRY(io_sync(fd));
    TRY(io_size(fd, &size));
    CHECK_INT(size, 11);
    TRY(io_pread(fd, text, 5, 6, &got));
    CHECK_INT(got, 5);
    CHECK_STRING(text, "world");
    TRY(io_pread(fd, text, sizeof text, 9, &got));
    CHECK_INT(got, 2);
    TRY(io_pread(fd, text, sizeof text, 11, &got));
    CHECK_INT(got, 0);
    TRY(io_truncate(fd, 3));
    TRY(io_size(fd, &size));
    CHECK_INT(size, 3);
}

static void
test_anonymous_file(void)
{
    CLEANUP(close_file) int fd = -1;
    char text[4] = "";
    size_t got = 0;
    TRY(io_open_anonymous(&fd));
    TRY(io_write(fd, "abc", 3));
    TRY(io_pread(fd, text, 3, 0, &got));
    CHECK_STRING(text, "abc");
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    struct stat info;
    REQUIRE(fstat(fd, &info) == 0);
    CHECK_INT(info.st_nlink, 0);
}

static void
test_bad_descriptor(void)
{
    char byte = 'x';
    size_t got = 99;
    off_t size = 99;
    CHECK(io_write(-1, &byte, 1) == ERR_IO);
    CHECK(io_pread(-1, &byte, 1, 0, &got) == ERR_IO);
    CHECK(io_size(-1, &size) == ERR_IO);
    CHECK(io_truncate(-1, 0) == ERR_IO);
    CHECK(io_sync(-1) == ERR_IO);
    CHECK(io_lock(-1) == ERR_IO);
    CHECK_INT(errno, EBADF);
    CHECK(got == 99 && size == 99);
}

/* A file size limit stops a write half-way, as a full disk does. */
static void
write_past_a_limit(int fd)
{
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 4, .rlim_max = 4};
    bool as_wanted = setrlimit(RLIMIT_FSIZE, &limit) == 0
                     && io_write(fd, "abcdef", 6) == ERR_IO && errno == ENOSPC;
    _exit(as_wanted || harness_struck() ? 0 : 1);
}

static void
test_short_write_leaves_what_did_fit(void)
{
    TEMP_DIR(dir);
    FILE_IN(dir, fd, "file");
    int status = -1;
    off_t size = 0;
    pid_t pid = fork();   /* the limit cannot be lifted again */
    if (pid == 0) {
        write_past_a_limit(fd);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);
    TRY(io_size(fd, &size));
    CHECK_INT(size, 4);
}

static void
test_injected_full_disk_leaves_half(void)
{
    TEMP_DIR(dir);
    FILE_IN(dir, fd, "file");
    off_t size = 0;
    io_fail_at(1, ENOSPC);
    CHECK(io_write(fd, "abcdef", 6) == ERR_IO);
    CHECK_INT(errno, ENOSPC);
    TRY(io_size(fd, &size));
    CHECK_INT(size, 3);
    io_fail_at(1, ENOSPC);
    CHECK(io_write(fd, "g", 1) == ERR_IO);
    io_fail_at(1, EIO);
    CHECK(io_write(fd, "abcdef", 6) == ERR_IO);
    CHECK_INT(errno, EIO);
    TRY(io_size(fd, &size));
    CHECK_INT(size, 3);
}

static void
test_interrupted_calls_are_repeated(void)
{
    TEMP_DIR(dir);
    struct path path = path_in(&dir, "file"), other = path_in(&dir, "other");
    CLEANUP(close_file) int fd = -1;
    CLEANUP(close_file) int anonymous = -1;
    off_t size;
    size_t got;
    char byte;
#define INTERRUPTED(call)        \
    do {                         \
        io_fail_at(1, EINTR);    \
        TRY(call);               \
        CHECK_INT(io_asked(), 2); \
    } while (0)
    INTERRUPTED(io_open(path.text, O_RDWR | O_CREAT, &fd));
    INTERRUPTED(io_open_anonymous(&anonymous));
    INTERRUPTED(io_write(fd, "a", 1));
    INTERRUPTED(io_pread(fd, &byte, 1, 0, &got));
    INTERRUPTED(io_size(fd, &size));
    INTERRUPTED(io_truncate(fd, 1));
    INTERRUPTED(io_sync(fd));
    INTERRUPTED(io_lock(fd));
    INTERRUPTED(io_rename(path.text, other.text));
    INTERRUPTED(io_unlink(other.text));
    io_fail_at(1, EINTR);
    TRY(io_make_directories(other.text));
    CHECK(exists(other.text));
}

static void
test_fails_the_nth_once(void)
{
    TEMP_DIR(dir);
    FILE_IN(dir, fd, "file");
    off_t size;
    io_fail_at(2, EDQUOT);
    TRY(io_size(fd, &size));
    CHECK(io_size(fd, &size) == ERR_IO);
    CHECK_INT(errno, EDQUOT);
    TRY(io_size(fd, &size));
    CHECK_INT(io_asked(), 3);
    io_fail_at(0, 0);
    CHECK_INT(io_asked(), 0);
    TRY(io_size(fd, &size));
}

static void
test_rename_replaces_and_unlink_forgives(void)
{
    TEMP_DIR(dir);
    struct path from = path_in(&dir, "from"), to = path_in(&dir, "to");
    FILE_IN(dir, a, "from");
    FILE_IN(dir, b, "to");
    TRY(io_rename(from.text, to.text));
    CHECK(!exists(from.text) && exists(to.text));
    CHECK(io_rename(from.text, to.text) == ERR_IO);
    TRY(io_unlink(to.text));
    CHECK(!exists(to.text));
    TRY(io_unlink(to.text));
    CHECK(io_unlink(dir.path) == ERR_IO);
}

static void
test_makes_directories_and_their_parents(void)
{
    TEMP_DIR(dir);
    struct path deep = path_in(&dir, "a//b/c/");
    TRY(io_make_directories(deep.text));
    CHECK_INT(mode_of(deep.text), 0700);
    CHECK_INT(mode_of(path_in(&dir, "a").text), 0700);
    TRY(io_make_directories(deep.text));
    TRY(io_make_directories("/"));
}

static void
test_directory_that_cannot_be(void)
{
    TEMP_DIR(dir);
    FILE_IN(dir, fd, "file");
    CHECK(io_make_directories(path_in(&dir, "file/below").text) == ERR_IO);
    CHECK_INT(errno, ENOTDIR);
    CHECK(io_make_directories(path_in(&dir, "file").text) == ERR_IO);
    CHECK_INT(errno, ENOTDIR);
    CHECK(io_make_directories("") == ERR_IO);
    CHECK_INT(errno, ENOENT);
}

static void
test_lock_excludes_until_closed(void)
{
    TEMP_DIR(dir);
    FILE_IN(dir, first, "lock");
    FILE_IN(dir, second, "lock");
    TRY(io_lock(first));
    TRY(io_lock(first));
    CHECK(io_lock(second) == ERR_CLOSED);
    io_close(first);
    first = -1;
    TRY(io_lock(second));
}

static void
test_lock_excludes_another_process(void)
{
    TEMP_DIR(dir);
    FILE_IN(dir, fd, "lock");
    int status = -1;
    TRY(io_lock(fd));
    pid_t pid = fork();
    if (pid == 0) {
        int own = -1;
        bool as_wanted = !io_open(path_in(&dir, "lock").text, O_RDWR, &own)
                         && io_lock(own) == ERR_CLOSED;
        _exit(as_wanted || harness_struck() ? 0 : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_INT(status, 0);
}

static void
test_close_keeps_errno(void)
{
    CLEANUP(close_file) int fd = -1;
    TRY(io_open("/dev/null", O_RDONLY, &fd));
    io_close(fd);
    fd = -1;
    errno = EDQUOT;
    io_close(-1);
    CHECK_INT(errno, EDQUOT);
}

static void
test_allocate(void)
{
    TEMP_DIR(dir);
    char path[128];
    struct stat info;
    int fd;
    snprintf(path, sizeof path, "%s/reserve", dir.path);
    TRY(io_open(path, O_WRONLY | O_CREAT, &fd));
    enum err err = io_allocate(fd, 1 << 20);
    io_close(fd);
    TRY(err);
    CHECK(stat(path, &info) == 0 && info.st_size == 1 << 20 && info.st_blocks >= 2048);
}

TESTS(TEST(allocate), TEST(files_are_private_and_close_on_exec), TEST(failed_open_leaves_the_descriptor),
      TEST(write_then_read), TEST(anonymous_file), TEST(bad_descriptor),
      TEST(short_write_leaves_what_did_fit),
      TEST_WITHOUT_CHAOS(injected_full_disk_leaves_half),
      TEST_WITHOUT_CHAOS(interrupted_calls_are_repeated), TEST_WITHOUT_CHAOS(fails_the_nth_once),
      TEST(rename_replaces_and_unlink_forgives), TEST(makes_directories_and_their_parents),
      TEST(directory_that_cannot_be), TEST(lock_excludes_until_closed),
      TEST(lock_excludes_another_process), TEST(close_keeps_errno))
