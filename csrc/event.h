/* What the other threads tell the loop: an answered lookup, news of the rule set, a line for the
 * log.
 *
 * An event is allocated by its sender, given away by mailbox_post, and freed by the engine after it
 * was handled.
 *
 * Sending: any thread.  Handling: the loop. */
#ifndef FORWARDER_EVENT_H
#define FORWARDER_EVENT_H

#include "mailbox.h"

enum event_kind { EVENT_LOOKUP, EVENT_RULES, EVENT_NOTICE };

struct event {
    struct mail mail;
    enum event_kind kind;
};

/* The levels of Python's logging module. */
enum notice_level { NOTICE_INFO = 20, NOTICE_WARNING = 30, NOTICE_ERROR = 40 };

#define NOTICE_SIZE 512

struct notice {
    struct event event;
    enum notice_level level;
    char text[NOTICE_SIZE]; /* one line; holds no secret */
};

/* Best effort: when memory is short or the loop is gone the line is lost, never the caller. */
void
event_notice(struct mailbox *outbox, enum notice_level level, const char *format, ...)
    PRINTF_LIKE(3, 4);

#endif
