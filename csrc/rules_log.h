/* What a refresh says in the log about a rule set: rules that are not in force, that are in
 * quarantine, that stand there twice, and how many there are in all.
 *
 * Owns nothing.
 *
 * Any thread. */
#ifndef FORWARDER_RULES_LOG_H
#define FORWARDER_RULES_LOG_H

#include "event.h"
#include "rules.h"

void
rules_log(struct mailbox *outbox, const struct rules *rules, const struct rules_report *report,
          int64_t elapsed_ms);

/* An id as the log shows it, at most 30 characters; "?" where there is none. */
#define RULES_LOG_ID_SIZE 32
void
rules_log_id(const struct wire_id *id, char out[RULES_LOG_ID_SIZE]);

#endif
