/* The few system calls on files that the core makes, in one place so that tests can make any of
 * them fail.
 *
 * File descriptors belong to the caller.  All are opened close-on-exec, files with mode 0600,
 * directories 0700.
 *
 * Any thread.  Only io_write may be called on the loop thread: every other call may wait for the
 * disk. */
#ifndef FORWARDER_IO_H
#define FORWARDER_IO_H

#include <sys/types.h>

#include "base.h"

/* flags as open(2) without the mode; *fd is set on success. */
enum err
io_open(const char *path, int flags, int *fd) MUST_CHECK;
/* A file without a name, in memory where the system has that (memfd), else unlinked at once. */
enum err
io_open_anonymous(int *fd) MUST_CHECK;
/* All bytes in one write(2); a short write is ERR_IO with errno ENOSPC.  EINTR is tried again. */
enum err
io_write(int fd, const void *data, size_t len) MUST_CHECK;
/* Up to len bytes at offset; *got is 0 at the end of the file. */
enum err
io_pread(int fd, void *data, size_t len, off_t offset, size_t *got) MUST_CHECK;
enum err
io_size(int fd, off_t *size) MUST_CHECK;
/* When the content last changed, or io_touch was called: seconds since 1970. */
enum err
io_modified(int fd, double *wall_seconds) MUST_CHECK;
/* Sets that to now. */
enum err
io_touch(int fd) MUST_CHECK;
enum err
io_truncate(int fd, off_t size) MUST_CHECK;
/* Takes this much of the disk for the file, which is as long afterwards. */
enum err
io_allocate(int fd, off_t size) MUST_CHECK;
enum err
io_sync(int fd) MUST_CHECK;
enum err
io_rename(const char *from, const char *to) MUST_CHECK;
/* A file that is not there is fine. */
enum err
io_unlink(const char *path) MUST_CHECK;
/* Makes the directory and its parents. */
enum err
io_make_directories(const char *path) MUST_CHECK;
/* Exclusive advisory lock without waiting; ERR_CLOSED when another process holds it. */
enum err
io_lock(int fd) MUST_CHECK;
void
io_close(int fd);

#ifdef FORWARDER_FAULTS
/* Tests only: the nth call from now that can fail does so with this errno, once.  0 switches it
 * off. */
void
io_fail_at(unsigned long nth, int error);
unsigned long
io_asked(void);
#endif

#endif
