#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem.h"

#define FILE_MODE 0600
#define DIRECTORY_MODE 0700

#ifdef FORWARDER_FAULTS
#include <stdatomic.h>

static atomic_ulong asked;
static atomic_ulong fail_at;
static atomic_int fail_errno;

void
io_fail_at(unsigned long nth, int error)
{
    asked = 0;
    fail_errno = error;
    fail_at = nth;
}

unsigned long
io_asked(void)
{
    return asked;
}

/* Asked once for every system call, and again for one that is repeated. */
static bool
fault(void)
{
    if (atomic_fetch_add(&asked, 1) + 1 != fail_at) {
        return false;
    }
    errno = fail_errno;
    return true;
}
#else
static inline bool
fault(void)
{
    return false;
}
#endif

/* Runs a system call until no signal interrupts it. */
#define REPEAT(result, call)                                    \
    do {                                                        \
        (result) = fault() ? -1 : (call);                       \
    } while ((result) == -1 && errno == EINTR)

enum err
io_open(const char *path, int flags, int *fd)
{
    int opened;
    REPEAT(opened, open(path, flags | O_CLOEXEC, FILE_MODE));
    if (opened < 0) {
        return ERR_IO;
    }
    *fd = opened;
    return ERR_OK;
}

#ifdef MFD_CLOEXEC
static int
open_anonymous(void)
{
    return memfd_create("mitm-forwarder", MFD_CLOEXEC);
}
#else
static int
open_anonymous(void)
{
    char path[] = "/tmp/mitm-forwarder-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) {
        unlink(path);
    }
    return fd;
}
#endif

enum err
io_open_anonymous(int *fd)
{
    int opened;
    REPEAT(opened, open_anonymous());
    if (opened < 0) {
        return ERR_IO;
    }
    *fd = opened;
    return ERR_OK;
}

/* A full disk takes what still fits.  An injected ENOSPC does the same, so that tests see torn
 * records. */
static ssize_t
write_or_fault(int fd, const void *data, size_t len)
{
    if (!fault()) {
        return write(fd, data, len);
    }
    return errno == ENOSPC && len > 1 ? write(fd, data, len / 2) : -1;
}

enum err
io_write(int fd, const void *data, size_t len)
{
    ssize_t written;
    do {
        written = write_or_fault(fd, data, len);
    } while (written == -1 && errno == EINTR);
    if (written < 0) {
        return ERR_IO;
    }
    if ((size_t)written < len) {
        /* The bytes that did fit stay in the file: cutting them off could fail as well, and readers
         * of a journal have to know a torn record anyway. */
        errno = ENOSPC;
        return ERR_IO;
    }
    return ERR_OK;
}

enum err
io_pread(int fd, void *data, size_t len, off_t offset, size_t *got)
{
    ssize_t count;
    REPEAT(count, pread(fd, data, len, offset));
    if (count < 0) {
        return ERR_IO;
    }
    *got = (size_t)count;
    return ERR_OK;
}

enum err
io_size(int fd, off_t *size)
{
    struct stat info;
    int rc;
    REPEAT(rc, fstat(fd, &info));
    if (rc != 0) {
        return ERR_IO;
    }
    *size = info.st_size;
    return ERR_OK;
}

enum err
io_modified(int fd, double *wall_seconds)
{
    struct stat info;
    int rc;
    REPEAT(rc, fstat(fd, &info));
    if (rc != 0) {
        return ERR_IO;
    }
    *wall_seconds = (double)info.st_mtim.tv_sec + (double)info.st_mtim.tv_nsec / 1e9;
    return ERR_OK;
}

enum err
io_touch(int fd)
{
    int rc;
    REPEAT(rc, futimens(fd, NULL));
    return rc == 0 ? ERR_OK : ERR_IO;
}

enum err
io_truncate(int fd, off_t size)
{
    int rc;
    REPEAT(rc, ftruncate(fd, size));
    return rc == 0 ? ERR_OK : ERR_IO;
}

enum err
io_allocate(int fd, off_t size)
{
    int error;
    do {
        error = fault() ? errno : posix_fallocate(fd, 0, size);
    } while (error == EINTR);
    errno = error;
    return error == 0 ? ERR_OK : ERR_IO;
}

enum err
io_sync(int fd)
{
    int rc;
    REPEAT(rc, fsync(fd));
    return rc == 0 ? ERR_OK : ERR_IO;
}

enum err
io_rename(const char *from, const char *to)
{
    int rc;
    REPEAT(rc, rename(from, to));
    return rc == 0 ? ERR_OK : ERR_IO;
}

enum err
io_unlink(const char *path)
{
    int rc;
    REPEAT(rc, unlink(path));
    return rc == 0 || errno == ENOENT ? ERR_OK : ERR_IO;
}

/* What mkdir says of a directory that is there differs (EEXIST, EROFS, EACCES), so the outcome is
 * what counts. */
static enum err
make_directory(const char *path)
{
    struct stat info;
    int rc;
    REPEAT(rc, mkdir(path, DIRECTORY_MODE));
    if (rc == 0) {
        return ERR_OK;
    }
    int error = errno;
    if (stat(path, &info) != 0) {
        errno = error;
        return ERR_IO;
    }
    if (!S_ISDIR(info.st_mode)) {
        errno = ENOTDIR;
        return ERR_IO;
    }
    return ERR_OK;
}

enum err
io_make_directories(const char *path)
{
    char *prefix = mem_string(path);
    if (prefix == NULL) {
        return ERR_MEMORY;
    }
    enum err err = ERR_OK;
    char *slash = strchr(prefix + strspn(prefix, "/"), '/');
    while (!err && slash != NULL) {
        *slash = '\0';
        err = make_directory(prefix);
        *slash = '/';
        slash = strchr(slash + 1, '/');
    }
    if (!err) {
        err = make_directory(prefix);
    }
    mem_free(prefix);
    return err;
}

enum err
io_lock(int fd)
{
    int rc;
    REPEAT(rc, flock(fd, LOCK_EX | LOCK_NB));
    if (rc == 0) {
        return ERR_OK;
    }
    return errno == EWOULDBLOCK ? ERR_CLOSED : ERR_IO;
}

void
io_close(int fd)
{
    /* Often called while a failure is on its way up, whose errno must arrive.  No second try after
     * EINTR: the descriptor is gone by then, and its number may be another thread's. */
    int error = errno;
    close(fd);
    errno = error;
}
