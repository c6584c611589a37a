#include "list.h"

#include "harness.h"

struct item {
    int number;
    struct link link;
};

#define ITEMS 4

static void
fill(struct list *list, struct item items[ITEMS])
{
    list_init(list);
    for (int i = 0; i < ITEMS; i++) {
        items[i].number = i;
        link_init(&items[i].link);
        list_push_back(list, &items[i].link);
    }
}

/* The numbers in the list, as digits; forwards must be backwards reversed. */
static const char *
digits(const struct list *list)
{
    static char text[ITEMS + 1];
    size_t len = 0;
    LIST_FOR_EACH (link, list) {
        CHECK(link->next->prev == link && link->prev->next == link);
        text[len++] = (char)('0' + LIST_ENTRY(link, struct item, link)->number);
    }
    text[len] = '\0';
    return text;
}

static void
test_keeps_order(void)
{
    struct list list;
    struct item items[ITEMS];
    fill(&list, items);
    CHECK(!list_is_empty(&list));
    CHECK_STRING(digits(&list), "0123");
}

static void
test_takes_from_the_front(void)
{
    struct list list;
    struct item items[ITEMS];
    fill(&list, items);
    for (int i = 0; i < ITEMS; i++) {
        struct link *link = list_take_front(&list);
        REQUIRE(link == &items[i].link);
        CHECK(!link_is_linked(link));
    }
    CHECK(list_is_empty(&list));
    CHECK(list_take_front(&list) == NULL);
}

static void
test_removal_anywhere_and_twice(void)
{
    struct list list;
    struct item items[ITEMS];
    fill(&list, items);
    link_remove(&items[1].link);
    CHECK(!link_is_linked(&items[1].link) && link_is_linked(&items[0].link));
    CHECK_STRING(digits(&list), "023");
    link_remove(&items[1].link);
    link_remove(&items[0].link);
    link_remove(&items[3].link);
    CHECK_STRING(digits(&list), "2");
    list_push_back(&list, &items[1].link);
    CHECK_STRING(digits(&list), "21");
}

static void
test_removal_while_walking(void)
{
    struct list list;
    struct item items[ITEMS];
    fill(&list, items);
    LIST_FOR_EACH_SAFE (link, after, &list) {
        if (LIST_ENTRY(link, struct item, link)->number % 2 == 0) {
            link_remove(link);
        }
    }
    CHECK_STRING(digits(&list), "13");
    LIST_FOR_EACH_SAFE (link, after, &list) {
        link_remove(link);
    }
    CHECK(list_is_empty(&list));
}

TESTS(TEST(keeps_order), TEST(takes_from_the_front), TEST(removal_anywhere_and_twice),
      TEST(removal_while_walking))
