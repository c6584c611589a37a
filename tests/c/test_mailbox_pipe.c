/* The same tests of the mailbox that systems without an eventfd get, and one that needs a hand in it. */
#include <stddef.h>
#include <unistd.h>

static ssize_t read_after_visit(int fd, void *data, size_t len);

#define MAILBOX_PIPE
#define read read_after_visit
#include "../../csrc/mailbox.c"
#undef read

#define MORE_TESTS , TEST(mail_that_comes_while_clearing_is_not_forgotten)
static void test_mail_that_comes_while_clearing_is_not_forgotten(void);
#include "test_mailbox.c"

static void (*visit)(void);
static struct mailbox *visited;
static struct letter latecomer;

static ssize_t
read_after_visit(int fd, void *data, size_t len)
{
    if (visit != NULL) {
        visit();
    }
    return read(fd, data, len);
}

static void
post_latecomer(void)
{
    CHECK(mailbox_post(visited, &latecomer.mail));
}

/* Its wake-up is cleared with that of the first, so it has to be taken with the first. */
static void
test_mail_that_comes_while_clearing_is_not_forgotten(void)
{
    struct letter first;
    struct list out;
    CLEANUP(empty_and_fini) struct mailbox box;
    init_with_descriptor(&box);
    list_init(&out);
    CHECK(mailbox_post(&box, &first.mail));
    visited = &box;
    visit = post_latecomer;
    mailbox_take_all(&box, &out);
    visit = NULL;
    CHECK(list_take_front(&out) == &first.mail.link);
    CHECK(list_take_front(&out) == &latecomer.mail.link || is_readable(&box));
}
