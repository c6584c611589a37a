#include "mailbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "clock.h"
#include "io.h"

/* MAILBOX_PIPE lets a test on Linux have what other systems get. */
#if defined(__linux__) && !defined(MAILBOX_PIPE)
#include <sys/eventfd.h>

static enum err
open_descriptors(int *read_fd, int *write_fd)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return ERR_IO;
    }
    *read_fd = *write_fd = fd;
    return ERR_OK;
}
#else
static bool
set_flags(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0;
}

static enum err
open_descriptors(int *read_fd, int *write_fd)
{
    int fds[2];
    if (pipe(fds) != 0) {
        return ERR_IO;
    }
    if (!set_flags(fds[0]) || !set_flags(fds[1])) {
        io_close(fds[0]);
        io_close(fds[1]);
        return ERR_IO;
    }
    *read_fd = fds[0];
    *write_fd = fds[1];
    return ERR_OK;
}
#endif

/* Eight bytes because an eventfd takes nothing else.  When it cannot take more (EAGAIN) it is
 * readable already, which is all that is wanted. */
static void
wake_by_descriptor(void *context)
{
    const struct mailbox *box = context;
    uint64_t one = 1;
    ssize_t written;
    do {
        written = write(box->write_fd, &one, sizeof one);
    } while (written < 0 && errno == EINTR);
    assert(written == (ssize_t)sizeof one || errno == EAGAIN);
}

/* One read empties an eventfd.  What a pipe still holds then costs a wake-up that finds nothing. */
static void
clear_descriptor(const struct mailbox *box)
{
    char wakes[64 * sizeof(uint64_t)];
    ssize_t got;
    do {
        got = read(box->read_fd, wakes, sizeof wakes);
    } while (got < 0 && errno == EINTR);
    assert(got > 0 || errno == EAGAIN);
}

static void
init(struct mailbox *box)
{
    lock_init(&box->lock);
    list_init(&box->mails);
    box->closed = false;
}

enum err
mailbox_init_fd(struct mailbox *box)
{
    int read_fd, write_fd;
    enum err err = open_descriptors(&read_fd, &write_fd);
    if (err) {
        return err;
    }
    init(box);
    box->wake = wake_by_descriptor;
    box->wake_context = box;
    box->read_fd = read_fd;
    box->write_fd = write_fd;
    return ERR_OK;
}

void
mailbox_init_wake(struct mailbox *box, mailbox_wake_fn *wake, void *context)
{
    init(box);
    box->wake = wake;
    box->wake_context = context;
    box->read_fd = box->write_fd = -1;
}

void
mailbox_fini(struct mailbox *box)
{
    assert(list_is_empty(&box->mails));
    if (box->write_fd != box->read_fd) {
        io_close(box->write_fd);
    }
    if (box->read_fd >= 0) {
        io_close(box->read_fd);
    }
    box->read_fd = box->write_fd = -1;
    lock_fini(&box->lock);
}

bool
mailbox_post(struct mailbox *box, struct mail *mail)
{
    bool was_empty = false;
    lock_take(&box->lock);
    bool taken = !box->closed;
    if (taken) {
        was_empty = list_is_empty(&box->mails);
        list_push_back(&box->mails, &mail->link);
    }
    lock_drop(&box->lock);
    /* From here on the mail is the consumer's and may be gone. */
    if (was_empty) {
        box->wake(box->wake_context);
    }
    return taken;
}

bool
mailbox_post_all(struct mailbox *box, struct list *mails)
{
    assert(!list_is_empty(mails));
    lock_take(&box->lock);
    bool taken = !box->closed, wakes = taken && list_is_empty(&box->mails);
    for (struct link *link; taken && (link = list_take_front(mails)) != NULL;) {
        list_push_back(&box->mails, link);
    }
    lock_drop(&box->lock);
    if (wakes) {
        box->wake(box->wake_context);
    }
    return taken;
}

void
mailbox_close(struct mailbox *box)
{
    lock_take(&box->lock);
    box->closed = true;
    lock_drop(&box->lock);
}

static void
move_all_locked(struct mailbox *box, struct list *out)
{
    lock_assert_held(&box->lock);
    if (list_is_empty(&box->mails)) {
        return;
    }
    out->head = box->mails.head;
    out->head.next->prev = &out->head;
    out->head.prev->next = &out->head;
    list_init(&box->mails);
}

void
mailbox_take_all(struct mailbox *box, struct list *out)
{
    assert(list_is_empty(out));
    /* In this order: the wake-up of a mail that arrives in between stays, at worst for nothing.
     * The other way round it would be cleared unseen, and the mail would wait for the next one. */
    if (box->read_fd >= 0) {
        clear_descriptor(box);
    }
    lock_take(&box->lock);
    move_all_locked(box, out);
    lock_drop(&box->lock);
}

int
mailbox_fd(const struct mailbox *box)
{
    return box->read_fd;
}

void
mailbox_wait(struct mailbox *box, int timeout_ms)
{
    assert(box->read_fd >= 0);
    struct pollfd readable = {.fd = box->read_fd, .events = POLLIN};
    int64_t deadline_ms = clock_now_ms() + timeout_ms;
    while (poll(&readable, 1, timeout_ms) < 0 && errno == EINTR) {
        if (timeout_ms > 0) {
            int64_t left_ms = deadline_ms - clock_now_ms();
            timeout_ms = left_ms > 0 ? (int)left_ms : 0;
        }
    }
}
