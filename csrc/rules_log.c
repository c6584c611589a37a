#include "rules_log.h"

#include <stdio.h>

/* Of each kind, in one refresh. */
#define NAMED_MAX 20

void
rules_log_id(const struct wire_id *id, char out[RULES_LOG_ID_SIZE])
{
    snprintf(out, RULES_LOG_ID_SIZE, "?");
    if (id != NULL && id->kind == WIRE_ID_INTEGER) {
        snprintf(out, RULES_LOG_ID_SIZE, "%lld", (long long)id->integer);
    }
    else if (id != NULL && id->kind == WIRE_ID_STRING) {
        snprintf(out, RULES_LOG_ID_SIZE, "%.30s", id->string);
    }
}

static void
log_rejects(struct mailbox *outbox, const struct rules_report *report)
{
    for (size_t i = 0; i < report->rejects_kept && i < NAMED_MAX; i++) {
        const struct rules_reject *reject = &report->rejects[i];
        char id[RULES_LOG_ID_SIZE];
        rules_log_id(&reject->id, id);
        event_notice(outbox, NOTICE_WARNING,
                     "Blacklist rule id=%s is not in force: %s (at position %zu)", id,
                     reject->error.message, reject->error.position);
    }
}

static void
log_quarantine(struct mailbox *outbox, const struct rules *rules,
               const struct rules_report *report)
{
    size_t left = report->quarantined < NAMED_MAX ? report->quarantined : NAMED_MAX;
    for (size_t i = 0; i < rules_count(rules) && left > 0; i++) {
        struct rules_info info;
        char id[RULES_LOG_ID_SIZE];
        rules_get(rules, i, &info);
        if (!info.quarantined || info.first != i) {
            continue;
        }
        left--;
        rules_log_id(info.id, id);
        event_notice(outbox, NOTICE_WARNING,
                     "Blacklist rule id=%s is in quarantine: it backtracks for too long, so it is"
                     " tried last and for a short time; where that does not suffice, the URL is"
                     " refused (so far %llu times)",
                     id, (unsigned long long)info.limits);
    }
}

void
rules_log(struct mailbox *outbox, const struct rules *rules, const struct rules_report *report,
          int64_t elapsed_ms)
{
    log_rejects(outbox, report);
    log_quarantine(outbox, rules, report);
    if (report->rejected > NAMED_MAX || report->quarantined > NAMED_MAX || report->duplicates > 0) {
        event_notice(outbox, NOTICE_WARNING,
                     "The blacklist in all: %zu rules not in force, %zu in quarantine, %zu with the"
                     " pattern of one before them; `mitm-forwarder rules check` names them",
                     report->rejected, report->quarantined, report->duplicates);
    }
    event_notice(outbox, NOTICE_INFO,
                 "Refreshed blacklist cache: %zu rules (%zu compiled, %zu rejected) in %lld ms",
                 report->given, report->compiled, report->rejected, (long long)elapsed_ms);
}
