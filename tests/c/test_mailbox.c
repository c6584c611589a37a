#include "mailbox.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>

#include "harness.h"

/* See test_mailbox_pipe.c. */
#ifndef MORE_TESTS
#define MORE_TESTS
#endif

#define PRODUCERS 4
#define MAILS_EACH 5000

struct letter {
    struct mail mail;
    int producer, number;
};

static struct letter *
letter_of(struct link *link)
{
    return CONTAINER_OF(LIST_ENTRY(link, struct mail, link), struct letter, mail);
}

static void
init_with_descriptor(struct mailbox *box)
{
    if (mailbox_init_fd(box)) {
        perror("mailbox_init_fd");
        abort();
    }
}

static void
empty_and_fini(struct mailbox *box)
{
    struct list left;
    list_init(&left);
    mailbox_take_all(box, &left);
    mailbox_fini(box);
}

static bool
is_readable(const struct mailbox *box)
{
    struct pollfd fd = {.fd = mailbox_fd(box), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void
count_wake(void *context)
{
    ++*(int *)context;
}

static void
test_first_in_first_out(void)
{
    struct letter letters[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    CLEANUP(empty_and_fini) struct mailbox box;
    int wakes = 0;
    mailbox_init_wake(&box, count_wake, &wakes);
    for (int i = 0; i < 3; i++) {
        CHECK(mailbox_post(&box, &letters[i].mail));
    }
    struct list out;
    list_init(&out);
    mailbox_take_all(&box, &out);
    for (int i = 0; i < 3; i++) {
        struct link *link = list_take_front(&out);
        REQUIRE(link != NULL);
        CHECK_INT(letter_of(link)->number, i);
    }
    CHECK(list_is_empty(&out));
    mailbox_take_all(&box, &out);
    CHECK(list_is_empty(&out));
}

static void
test_many_at_once(void)
{
    struct letter letters[3] = {{.number = 0}, {.number = 1}, {.number = 2}};
    CLEANUP(empty_and_fini) struct mailbox box;
    int wakes = 0;
    mailbox_init_wake(&box, count_wake, &wakes);
    struct list mails, out;
    list_init(&mails);
    list_init(&out);
    list_push_back(&mails, &letters[1].mail.link);
    list_push_back(&mails, &letters[2].mail.link);
    CHECK(mailbox_post(&box, &letters[0].mail));
    CHECK(mailbox_post_all(&box, &mails));
    CHECK_INT(wakes, 1);
    CHECK(list_is_empty(&mails));
    mailbox_take_all(&box, &out);
    for (int i = 0; i < 3; i++) {
        struct link *link = list_take_front(&out);
        REQUIRE(link != NULL);
        CHECK_INT(letter_of(link)->number, i);
        list_push_back(&mails, link);
    }
    CHECK(mailbox_post_all(&box, &mails));
    CHECK_INT(wakes, 2);
    mailbox_take_all(&box, &out);
    mailbox_close(&box);
    CHECK(!mailbox_post_all(&box, &out));
    CHECK_INT(wakes, 2);
    CHECK(!list_is_empty(&out));
}

static void
test_one_wake_a_burst(void)
{
    struct letter letters[3];
    CLEANUP(empty_and_fini) struct mailbox box;
    int wakes = 0;
    mailbox_init_wake(&box, count_wake, &wakes);
    CHECK_INT(mailbox_fd(&box), -1);
    struct list out;
    for (int burst = 1; burst <= 3; burst++) {
        for (int i = 0; i < 3; i++) {
            CHECK(mailbox_post(&box, &letters[i].mail));
        }
        CHECK_INT(wakes, burst);
        list_init(&out);
        mailbox_take_all(&box, &out);
    }
}

static void
test_closed_box_takes_nothing(void)
{
    struct letter before, after;
    CLEANUP(empty_and_fini) struct mailbox box;
    int wakes = 0;
    mailbox_init_wake(&box, count_wake, &wakes);
    struct list out;
    list_init(&out);
    CHECK(mailbox_post(&box, &before.mail));
    mailbox_close(&box);
    mailbox_close(&box);
    CHECK(!mailbox_post(&box, &after.mail));
    mailbox_take_all(&box, &out);
    CHECK(list_take_front(&out) == &before.mail.link);
    CHECK(list_is_empty(&out));
    CHECK(!mailbox_post(&box, &after.mail));
    CHECK_INT(wakes, 1);
}

static void
test_descriptor_is_readable_while_mails_wait(void)
{
    struct letter letters[2];
    CLEANUP(empty_and_fini) struct mailbox box;
    init_with_descriptor(&box);
    struct list out;
    list_init(&out);
    CHECK(fcntl(mailbox_fd(&box), F_GETFD) & FD_CLOEXEC);
    CHECK(!is_readable(&box));
    CHECK(mailbox_post(&box, &letters[0].mail));
    CHECK(mailbox_post(&box, &letters[1].mail));
    CHECK(is_readable(&box));
    mailbox_take_all(&box, &out);
    CHECK(!is_readable(&box));
    list_init(&out);
    mailbox_take_all(&box, &out);
    CHECK(mailbox_post(&box, &letters[0].mail));
    CHECK(is_readable(&box));
}

static void
test_wait_ends_in_time(void)
{
    struct letter letter;
    CLEANUP(empty_and_fini) struct mailbox box;
    init_with_descriptor(&box);
    double start = harness_seconds();
    mailbox_wait(&box, 0);
    mailbox_wait(&box, 30);
    CHECK(harness_seconds() - start >= 0.029);
    CHECK(mailbox_post(&box, &letter.mail));
    mailbox_wait(&box, -1);
    mailbox_wait(&box, 1000000);
}

static void
do_nothing(int signal_number)
{
    (void)signal_number;
}

static void *
interrupt_often(void *context)
{
    pthread_t sleeper = *(pthread_t *)context;
    for (int i = 0; i < 5; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        pthread_kill(sleeper, SIGUSR1);
    }
    return NULL;
}

static void
test_signals_do_not_end_a_wait(void)
{
    CLEANUP(empty_and_fini) struct mailbox box;
    init_with_descriptor(&box);
    struct sigaction action = {.sa_handler = do_nothing}, old;
    pthread_t self = pthread_self(), thread;
    REQUIRE(sigaction(SIGUSR1, &action, &old) == 0);
    double start = harness_seconds();
    REQUIRE(pthread_create(&thread, NULL, interrupt_often, &self) == 0);
    mailbox_wait(&box, 100);
    double waited = harness_seconds() - start;
    pthread_join(thread, NULL);
    sigaction(SIGUSR1, &old, NULL);
    CHECK(waited >= 0.099);
}

static void
test_no_descriptor_left(void)
{
    struct rlimit old, none = {0};
    struct mailbox box;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &old) == 0);
    none.rlim_max = old.rlim_max;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    enum err err = mailbox_init_fd(&box);
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK(err == ERR_IO);
}

struct producer {
    pthread_t thread;
    struct mailbox *box;
    int id;
    struct letter letters[MAILS_EACH];
    int refused;
};

static void *
produce(void *context)
{
    struct producer *producer = context;
    for (int i = 0; i < MAILS_EACH; i++) {
        struct letter *letter = &producer->letters[i];
        letter->producer = producer->id;
        letter->number = i;
        if (!mailbox_post(producer->box, &letter->mail)) {
            producer->refused++;
            letter->number = -1;   /* ours again */
        }
    }
    return NULL;
}

static int
start(struct producer producers[PRODUCERS], struct mailbox *box)
{
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i].box = box;
        producers[i].id = i;
        producers[i].refused = 0;
        if (pthread_create(&producers[i].thread, NULL, produce, &producers[i]) != 0) {
            abort();
        }
    }
    return PRODUCERS * MAILS_EACH;
}

static void
join(struct producer producers[PRODUCERS])
{
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i].thread, NULL);
    }
}

/* Takes what is there; every producer's mails must come in the order it posted them. */
static int
take(struct mailbox *box, int next[PRODUCERS])
{
    struct list out;
    int count = 0;
    list_init(&out);
    mailbox_take_all(box, &out);
    for (struct link *link; (link = list_take_front(&out)) != NULL; count++) {
        struct letter *letter = letter_of(link);
        CHECK_INT(letter->number, next[letter->producer]);
        next[letter->producer]++;
    }
    return count;
}

/* A wake-up that got lost would leave this waiting for ever; a limit turns that into a failure. */
static void
test_many_producers_lose_nothing(void)
{
    static struct producer producers[PRODUCERS];
    CLEANUP(empty_and_fini) struct mailbox box;
    int next[PRODUCERS] = {0}, received = 0;
    init_with_descriptor(&box);
    int wanted = start(producers, &box);
    double begun = harness_seconds();
    while (received < wanted && harness_seconds() - begun < WAIT_SECONDS) {
        mailbox_wait(&box, (int)(WAIT_SECONDS * 1000));
        received += take(&box, next);
    }
    join(producers);
    CHECK_INT(received, wanted);
    CHECK(harness_seconds() - begun < WAIT_SECONDS);
}

static void
test_close_while_producers_post(void)
{
    static struct producer producers[PRODUCERS];
    CLEANUP(empty_and_fini) struct mailbox box;
    int next[PRODUCERS] = {0}, received = 0, refused = 0;
    init_with_descriptor(&box);
    int wanted = start(producers, &box);
    mailbox_wait(&box, (int)(WAIT_SECONDS * 1000));
    received += take(&box, next);
    mailbox_close(&box);
    received += take(&box, next);
    join(producers);
    CHECK_INT(take(&box, next), 0);
    for (int i = 0; i < PRODUCERS; i++) {
        refused += producers[i].refused;
    }
    CHECK_INT(received + refused, wanted);
}

TESTS(TEST(first_in_first_out), TEST(many_at_once), TEST(one_wake_a_burst),
      TEST(closed_box_takes_nothing),
      TEST(descriptor_is_readable_while_mails_wait), TEST(wait_ends_in_time),
      TEST(signals_do_not_end_a_wait), TEST(no_descriptor_left),
      TEST(many_producers_lose_nothing), TEST(close_while_producers_post) MORE_TESTS)
