#include "slot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "buf.h"
#include "io.h"
#include "mem.h"

#define PATH_SIZE_MAX 4096

enum err
slot_join_path(const char *directory, const char *name, char **out)
{
    struct buf path;
    size_t len;
    buf_init(&path, PATH_SIZE_MAX);
    enum err err = buf_append_format(&path, "%s/%s", directory, name);
    if (!err && (*out = buf_take(&path, &len)) == NULL) {
        err = ERR_MEMORY;
    }
    buf_fini(&path);
    return err;
}

static enum err
failed(char message[SLOT_MESSAGE_SIZE], enum err err, const char *what, const char *path)
{
    snprintf(message, SLOT_MESSAGE_SIZE, "cannot %s %s: %s", what, path,
             err == ERR_IO ? strerror(errno) : err_text(err));
    return err;
}

static enum err
numbered_path(const char *directory, int number, char **out)
{
    char name[16];
    snprintf(name, sizeof name, "%d", number);
    return slot_join_path(directory, name, out);
}

/* Opens and locks the file `lock` of a slot; ERR_CLOSED when another process holds it. */
static enum err
lock_file(const char *path, int flags, int *out)
{
    int fd;
    char *file;
    enum err err = slot_join_path(path, "lock", &file);
    if (err) {
        return err;
    }
    err = io_open(file, O_RDWR | flags, &fd);
    mem_free(file);
    if (err) {
        return err;
    }
    if ((err = io_lock(fd))) {
        io_close(fd);
        return err;
    }
    *out = fd;
    return ERR_OK;
}

enum err
slot_take(const char *directory, struct slot *out, char message[SLOT_MESSAGE_SIZE])
{
    for (int number = 0; number < SLOTS_MAX; number++) {
        char *path;
        int fd;
        enum err err = numbered_path(directory, number, &path);
        if (err) {
            return failed(message, err, "use", directory);
        }
        if ((err = io_make_directories(path))) {
            failed(message, err, "make the directory", path);
        }
        else if ((err = lock_file(path, O_CREAT, &fd)) && err != ERR_CLOSED) {
            failed(message, err, "lock", path);
        }
        if (!err) {
            *out = (struct slot){path, fd};
            return ERR_OK;
        }
        mem_free(path);
        if (err != ERR_CLOSED) {
            return err;
        }
    }
    snprintf(message, SLOT_MESSAGE_SIZE, "all %d slots in %s are taken by running processes",
             SLOTS_MAX, directory);
    return ERR_LIMIT;
}

/* Slots are made in order and never removed: the first that is not there is the end. */
enum err
slot_take_orphan(const char *directory, int *number, struct slot *out)
{
    for (int candidate = *number; candidate < SLOTS_MAX; candidate++) {
        char *path;
        int fd;
        enum err err = numbered_path(directory, candidate, &path);
        if (err) {
            return err;
        }
        err = lock_file(path, 0, &fd);
        if (!err) {
            *out = (struct slot){path, fd};
            *number = candidate + 1;
            return ERR_OK;
        }
        bool is_end = err == ERR_IO && errno == ENOENT;
        mem_free(path);
        if (is_end) {
            return ERR_MISSING;
        }
        if (err != ERR_CLOSED) {
            return err;
        }
    }
    return ERR_MISSING;
}

void
slot_release(struct slot *slot)
{
    if (slot->path == NULL) {
        return;
    }
    io_close(slot->lock_fd);
    mem_free(slot->path);
    *slot = (struct slot){NULL, -1};
}
