#include "event.h"

#include <stdarg.h>
#include <stdio.h>

#include "mem.h"

void
event_notice(struct mailbox *outbox, enum notice_level level, const char *format, ...)
{
    struct notice *notice = mem_zalloc(sizeof *notice);
    if (notice == NULL) {
        return;
    }
    link_init(&notice->event.mail.link);
    notice->event.kind = EVENT_NOTICE;
    notice->level = level;
    va_list args;
    va_start(args, format);
    vsnprintf(notice->text, sizeof notice->text, format, args);
    va_end(args);
    if (!mailbox_post(outbox, &notice->event.mail)) {
        mem_free(notice);
    }
}
