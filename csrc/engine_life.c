#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "engine_state.h"
#include "mem.h"

/* Tokens whose user is remembered. */
#define TOKEN_CACHE_ENTRIES 10000
#define LEASES_MAX 10000
/* Calls to the backend beside one lookup for each permit: the posts of the activity log and the
 * rule list. */
#define EXTRA_CONNECTIONS (DELIVERY_IN_FLIGHT + 2)

static enum err
set_token(struct token *token, const char *text)
{
    struct token fresh = {NULL, 0};
    if (text != NULL) {
        enum err err = token_copy((struct slice){text, strlen(text)}, &fresh);
        if (err) {
            return err;
        }
    }
    token_fini(token);
    *token = fresh;
    return ERR_OK;
}

static enum err
set_authorization(struct buf *out, const char *system_token)
{
    enum err err = buf_append_string(out, "Bearer ");
    return err ? err : buf_append_string(out, system_token);
}

static enum err
create_services(struct engine *engine, const struct engine_config *config,
                char message[ENGINE_MESSAGE_SIZE])
{
    enum err err = reactor_create(&config->tls, (int)config->max_concurrent + EXTRA_CONNECTIONS,
                                  config->connect_timeout_ms, &engine->reactor);
    if (err) {
        snprintf(message, ENGINE_MESSAGE_SIZE, "the HTTP client could not be set up: %s",
                 err_text(err));
        return err;
    }
    lookup_service_init(&engine->lookups, engine->reactor, &engine->outbox, engine->proxy_url);
    struct refresh_config refresh = {
        .url = engine->blacklist_url,
        .authorization = &engine->authorization,
        .interval_ms = config->refresh_ms,
        .timeout_ms = config->timeout_ms,
        .max_body = config->blacklist_max_bytes,
        .max_shrink_percent = config->max_shrink_percent,
        .state_dir = engine->state_dir,
    };
    err = refresh_create(engine->reactor, &engine->outbox, &engine->stats, &refresh,
                         &engine->refresh);
    if (err) {
        return err;
    }
    struct delivery_config delivery = {
        .spool = config->spool,
        .url = config->activity_url,
        .authorization = &engine->authorization,
        .timeout_ms = config->timeout_ms,
    };
    return delivery_create(engine->reactor, &engine->outbox, &engine->stats, &delivery,
                           &engine->delivery, message);
}

static enum err
create_state(struct engine *engine, const struct engine_config *config,
             char message[ENGINE_MESSAGE_SIZE])
{
    engine->proxy_url = mem_string(config->proxy_url);
    engine->blacklist_url = mem_string(config->blacklist_url);
    engine->user_id_claim = mem_string(config->user_id_claim);
    engine->state_dir = config->state_dir != NULL ? mem_string(config->state_dir) : NULL;
    if (engine->proxy_url == NULL || engine->blacklist_url == NULL || engine->user_id_claim == NULL
        || (config->state_dir != NULL && engine->state_dir == NULL)) {
        return ERR_MEMORY;
    }
    struct targets_config targets = {
        .deny_private = config->deny_private_targets,
        .deny_ip_literals = config->deny_ip_literals,
        .allow = config->allow_targets,
        .backends = {config->proxy_url, config->blacklist_url, config->activity_url},
    };
    enum err err = targets_init(&engine->targets, &targets, message);
    if (!err) {
        err = set_token(&engine->default_token, config->default_user_jwt);
    }
    if (!err) {
        err = set_authorization(&engine->authorization, config->system_token);
    }
    if (!err) {
        err = verdict_desk_init(&engine->desk, &config->gate);
    }
    if (!err) {
        err = token_cache_create(TOKEN_CACHE_ENTRIES, &engine->users);
    }
    if (!err) {
        err = leases_create(LEASES_MAX, &engine->leases);
    }
    return err;
}

enum err
engine_create(const struct engine_config *config, struct engine **out,
              char message[ENGINE_MESSAGE_SIZE])
{
    struct engine *engine = mem_zalloc(sizeof *engine);
    snprintf(message, ENGINE_MESSAGE_SIZE, "%s", err_text(ERR_MEMORY));
    if (engine == NULL) {
        return ERR_MEMORY;
    }
    engine->owner = getpid();
    stats_init(&engine->stats);
    permits_init(&engine->permits, config->max_concurrent);
    list_init(&engine->waiting_for_rules);
    list_init(&engine->live);
    list_init(&engine->decided);
    list_init(&engine->notices);
    buf_init(&engine->authorization, TOKEN_MAX + sizeof "Bearer ");
    engine->require_token = config->require_user_jwt;
    engine->forward_authorization = config->forward_authorization;
    engine->timeout_ms = config->timeout_ms;
    engine->queue_timeout_ms = config->queue_timeout_ms;
    engine->max_stale_ms = config->max_stale_ms;
    engine->proxy_retries = config->proxy_retries;
    enum err err = mailbox_init_fd(&engine->outbox);
    if (err) {
        mem_free(engine);
        return err;
    }
    err = create_state(engine, config, message);
    if (!err) {
        err = create_services(engine, config, message);
    }
    if (err) {
        engine_destroy(engine);
        return err;
    }
    *out = engine;
    return ERR_OK;
}

enum err
engine_start(struct engine *engine)
{
    if (engine_is_forked(engine) || engine->started) {
        return ERR_CLOSED;
    }
    engine->started = true;
    enum err err = reactor_start(engine->reactor);
    if (!err) {
        err = delivery_start(engine->delivery);
    }
    if (!err) {
        err = refresh_start(engine->refresh);
    }
    return err;
}

void
engine_refuse(struct engine *engine)
{
    engine->refusing = true;
}

void
engine_halt(struct engine *engine, int timeout_ms)
{
    if (engine_is_forked(engine) || engine->halted) {
        return;
    }
    engine->halted = true;
    /* flush */
    delivery_flush(engine->delivery, timeout_ms);
    /* halt */
    reactor_stop(engine->reactor);
    refresh_join(engine->refresh);
    /* store */
    delivery_stop(engine->delivery);
}

void
engine_stop(struct engine *engine, int timeout_ms)
{
    if (engine_is_forked(engine) || engine->reactor == NULL) {
        return;
    }
    /* refuse */
    engine_give_up(engine);
    engine->started = true; /* no more */
    engine_halt(engine, timeout_ms);
    /* resolve */
    reactor_destroy(engine->reactor);
    engine->reactor = NULL;
    engine_drain(engine);
    /* The spool's slot is free for whoever comes next, however long requests of ours still live. */
    delivery_destroy(engine->delivery);
    engine->delivery = NULL;
}

void
engine_destroy(struct engine *engine)
{
    if (engine == NULL || engine_is_forked(engine)) {
        return;
    }
    /* Only where creation failed half-way: otherwise engine_stop has done it. */
    reactor_destroy(engine->reactor);
    mailbox_close(&engine->outbox);
    engine_drain(engine);
    for (struct notice *notice; (notice = engine_take_notice(engine)) != NULL;) {
        engine_notice_destroy(notice);
    }
    delivery_destroy(engine->delivery);
    refresh_destroy(engine->refresh);
    rules_unref(engine->rules);
    verdict_desk_fini(&engine->desk);
    token_cache_destroy(engine->users);
    targets_fini(&engine->targets);
    leases_destroy(engine->leases);
    token_fini(&engine->default_token);
    buf_fini_secret(&engine->authorization);
    mailbox_fini(&engine->outbox);
    mem_free(engine->state_dir);
    mem_free(engine->user_id_claim);
    mem_free(engine->blacklist_url);
    mem_free(engine->proxy_url);
    mem_free(engine);
}

/* ---- secrets, listeners, insight ---- */

enum err
engine_set_listeners(struct engine *engine, const char *authorities)
{
    return targets_set_listeners(&engine->targets, authorities);
}

struct secrets_task {
    struct reactor_task task;
    struct engine *engine;
    struct buf authorization;
};

static void
replace_authorization(struct reactor_task *task)
{
    struct secrets_task *secrets = CONTAINER_OF(task, struct secrets_task, task);
    struct engine *engine = secrets->engine;
    buf_fini_secret(&engine->authorization);
    engine->authorization = secrets->authorization;
    mem_free(secrets);
    delivery_resume(engine->delivery);
    refresh_ask(engine->refresh);
}

enum err
engine_set_secrets(struct engine *engine, const char *system_token, const char *default_user_jwt)
{
    if (engine_is_forked(engine) || engine->reactor == NULL) {
        return ERR_CLOSED;
    }
    enum err err = set_token(&engine->default_token, default_user_jwt);
    if (err) {
        return err;
    }
    struct secrets_task *secrets = mem_zalloc(sizeof *secrets);
    if (secrets == NULL) {
        return ERR_MEMORY;
    }
    link_init(&secrets->task.mail.link);
    secrets->task.run = replace_authorization;
    secrets->engine = engine;
    buf_init(&secrets->authorization, TOKEN_MAX + sizeof "Bearer ");
    err = set_authorization(&secrets->authorization, system_token);
    if (!err && !reactor_post(engine->reactor, &secrets->task)) {
        err = ERR_CLOSED;
    }
    if (err) {
        buf_fini_secret(&secrets->authorization);
        mem_free(secrets);
    }
    return err;
}

void
engine_refresh(struct engine *engine)
{
    if (!engine_is_forked(engine) && engine->reactor != NULL) {
        refresh_ask(engine->refresh);
    }
}

int
engine_fd(const struct engine *engine)
{
    return mailbox_fd(&engine->outbox);
}

bool
engine_rules(struct engine *engine, struct rules **rules, struct verdict_desk **desk)
{
    if (engine->rules == NULL) {
        return false;
    }
    *rules = rules_ref(engine->rules);
    *desk = &engine->desk;
    return true;
}

void
engine_gauges(struct engine *engine, struct engine_gauges *out)
{
    *out = (struct engine_gauges){
        .running = engine->live_count,
        .permits_held = engine->permits.held,
        .permits_waiting = engine->permits.queued,
        .rules_age_ms = -1,
        .spool_place = "closed",
        .breaker_open = breaker_is_open(&engine->lookups.breaker),
    };
    if (engine->rules != NULL) {
        out->rules = rules_count(engine->rules);
        out->rules_always = rules_summary(engine->rules)->always;
        out->rules_quarantined = rules_summary(engine->rules)->quarantined;
        out->rules_counted = rules_counted(engine->rules);
        out->rules_age_ms = clock_now_ms() - engine->rules_confirmed_ms;
    }
    if (engine->delivery != NULL) {
        struct spool *spool = delivery_spool(engine->delivery);
        out->spool_depth = spool_depth(spool);
        out->spool_dead = spool_dead(spool);
        out->spool_bytes = spool_bytes(spool);
        out->spool_age_ms = spool_oldest_age_ms(spool);
        out->spool_place = spool_place(spool);
    }
}

uint64_t
engine_counter(const struct engine *engine, enum stats_counter counter)
{
    return stats_get(&engine->stats, counter);
}
