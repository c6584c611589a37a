#include "buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "mem.h"

#define ROOM_FIRST 64

/* What every function may rely on and leaves behind. */
static void
assert_sound(const struct buf *buf)
{
    assert(buf->len <= buf->max);
    assert(buf->data == NULL ? buf->len == 0 && buf->room == 0
                             : buf->len < buf->room && buf->data[buf->len] == '\0');
    (void)buf;
}

void
buf_init(struct buf *buf, size_t max)
{
    assert(max < SIZE_MAX);   /* max and a NUL must be a size */
    *buf = (struct buf){.max = max};
}

void
buf_fini(struct buf *buf)
{
    assert_sound(buf);
    mem_free(buf->data);
    buf_init(buf, buf->max);
}

void
buf_fini_secret(struct buf *buf)
{
    assert_sound(buf);
    mem_free_secret(buf->data, buf->room);
    buf_init(buf, buf->max);
}

void
buf_clear(struct buf *buf)
{
    buf->len = 0;
    if (buf->data != NULL) {
        buf->data[0] = '\0';
    }
}

/* Room for len more bytes and the NUL. */
static enum err
reserve(struct buf *buf, size_t len)
{
    assert_sound(buf);
    if (len > buf->max - buf->len) {
        return ERR_LIMIT;
    }
    size_t needed = buf->len + len + 1;
    if (needed <= buf->room) {
        return ERR_OK;
    }
    size_t room;
    if (!size_mul(buf->room, 2, &room) || room > buf->max + 1) {
        room = buf->max + 1;
    }
    if (room < ROOM_FIRST && ROOM_FIRST <= buf->max) {
        room = ROOM_FIRST;
    }
    if (room < needed) {
        room = needed;
    }
    char *data = mem_realloc(buf->data, room);
    if (data == NULL) {
        return ERR_MEMORY;
    }
    data[buf->len] = '\0';
    buf->data = data;
    buf->room = room;
    return ERR_OK;
}

enum err
buf_append(struct buf *buf, const void *data, size_t len)
{
    if (len == 0) {
        return ERR_OK;
    }
    enum err err = reserve(buf, len);
    if (err) {
        return err;
    }
    memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
    return ERR_OK;
}

enum err
buf_append_slice(struct buf *buf, struct slice slice)
{
    return buf_append(buf, slice.data, slice.len);
}

enum err
buf_append_string(struct buf *buf, const char *text)
{
    return buf_append(buf, text, strlen(text));
}

enum err
buf_append_char(struct buf *buf, char c)
{
    return buf_append(buf, &c, 1);
}

enum err
buf_append_format(struct buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (len < 0) {
        return ERR_INVALID;
    }
    enum err err = reserve(buf, (size_t)len);
    if (err) {
        return err;
    }
    va_start(args, format);
    vsnprintf(buf->data + buf->len, (size_t)len + 1, format, args);
    va_end(args);
    buf->len += (size_t)len;
    return ERR_OK;
}

const char *
buf_string(const struct buf *buf)
{
    return buf->data == NULL ? "" : buf->data;
}

struct slice
buf_slice(const struct buf *buf)
{
    return (struct slice){buf_string(buf), buf->len};
}

char *
buf_take(struct buf *buf, size_t *len)
{
    if (reserve(buf, 0)) {
        return NULL;
    }
    char *data = buf->data;
    if (len != NULL) {
        *len = buf->len;
    }
    buf_init(buf, buf->max);
    return data;
}
