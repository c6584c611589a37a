/* Intrusive doubly linked list.  Taking out an element that is in no list is harmless.
 *
 * The list owns nothing; an element lies inside the struct it links and must leave the list before
 * that is freed.
 *
 * One thread at a time. */
#ifndef FORWARDER_LIST_H
#define FORWARDER_LIST_H

#include "base.h"

struct link {
    struct link *next, *prev;
};

struct list {
    struct link head;
};

#define LIST_ENTRY(link, type, member) CONTAINER_OF(link, type, member)
#define LIST_FOR_EACH(cursor, list)                                                                \
    for (struct link *cursor = (list)->head.next; cursor != &(list)->head; cursor = cursor->next)
/* The body may take out the current element. */
#define LIST_FOR_EACH_SAFE(cursor, after, list)                                                    \
    for (struct link *cursor = (list)->head.next, *after = cursor->next; cursor != &(list)->head;  \
         cursor = after, after = cursor->next)

static inline void
list_init(struct list *list)
{
    list->head.next = list->head.prev = &list->head;
}

static inline void
link_init(struct link *link)
{
    link->next = link->prev = link;
}

static inline bool
list_is_empty(const struct list *list)
{
    return list->head.next == &list->head;
}

static inline bool
link_is_linked(const struct link *link)
{
    return link->next != link;
}

static inline void
list_push_back(struct list *list, struct link *link)
{
    link->prev = list->head.prev;
    link->next = &list->head;
    list->head.prev->next = link;
    list->head.prev = link;
}

static inline void
link_remove(struct link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link_init(link);
}

/* The first element, taken out; NULL when empty. */
static inline struct link *
list_take_front(struct list *list)
{
    struct link *link = list->head.next;
    if (link == &list->head) {
        return NULL;
    }
    link_remove(link);
    return link;
}

#endif
