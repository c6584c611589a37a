#include "permits.h"

#include "clock.h"
#include "harness.h"

#define AT_ONCE 2

struct gate {
    struct permits permits;
    struct permit each[6];
};

static void
gate_init(struct gate *gate)
{
    permits_init(&gate->permits, AT_ONCE);
    for (size_t i = 0; i < COUNT_OF(gate->each); i++) {
        permit_init(&gate->each[i]);
    }
}

/* The first `count` ask; their time is over at 100, 101, ... */
static void
ask(struct gate *gate, int count)
{
    for (int i = 0; i < count; i++) {
        permits_ask(&gate->permits, &gate->each[i], 100 + i);
    }
}

static void
test_holds_waits_refuses(void)
{
    static const enum permit_state wanted[6] = {PERMIT_HELD,    PERMIT_HELD, PERMIT_WAITING,
                                                PERMIT_WAITING, PERMIT_NONE, PERMIT_NONE};
    struct gate gate;
    gate_init(&gate);
    for (int i = 0; i < 6; i++) {
        CHECK_INT(permits_ask(&gate.permits, &gate.each[i], 100), wanted[i]);
        CHECK_INT(gate.each[i].state, wanted[i]);
    }
    CHECK_INT(gate.permits.held, 2);
    CHECK_INT(gate.permits.queued, 2);
}

static void
test_passes_on_in_order(void)
{
    struct gate gate;
    gate_init(&gate);
    ask(&gate, 4);
    CHECK(permits_give_back(&gate.permits, &gate.each[0]) == &gate.each[2]);
    CHECK_INT(gate.each[2].state, PERMIT_HELD);
    CHECK(permits_give_back(&gate.permits, &gate.each[2]) == &gate.each[3]);
    CHECK(permits_give_back(&gate.permits, &gate.each[1]) == NULL);
    CHECK_INT(gate.permits.held, 1);
}

static void
test_gives_back_once(void)
{
    struct gate gate;
    gate_init(&gate);
    ask(&gate, 2);
    CHECK(permits_give_back(&gate.permits, &gate.each[0]) == NULL);
    CHECK_INT(gate.each[0].state, PERMIT_NONE);
    CHECK(permits_give_back(&gate.permits, &gate.each[0]) == NULL);
    CHECK_INT(gate.permits.held, 1);
    CHECK(permits_give_back(&gate.permits, &gate.each[5]) == NULL);
    CHECK_INT(gate.permits.held, 1);
    CHECK_INT(permits_ask(&gate.permits, &gate.each[0], 100), PERMIT_HELD);
}

static void
test_waiter_that_leaves_frees_its_place(void)
{
    struct gate gate;
    gate_init(&gate);
    ask(&gate, 4);
    CHECK(permits_give_back(&gate.permits, &gate.each[2]) == NULL);
    CHECK_INT(gate.each[2].state, PERMIT_NONE);
    CHECK_INT(gate.permits.queued, 1);
    CHECK_INT(permits_ask(&gate.permits, &gate.each[4], 100), PERMIT_WAITING);
    CHECK(permits_give_back(&gate.permits, &gate.each[0]) == &gate.each[3]);
}

static void
test_expiry(void)
{
    struct gate gate;
    gate_init(&gate);
    CHECK_INT(permits_next_expiry_ms(&gate.permits), CLOCK_NEVER);
    ask(&gate, 4);
    CHECK_INT(permits_next_expiry_ms(&gate.permits), 102);
    CHECK(permits_take_expired(&gate.permits, 101) == NULL);
    CHECK(permits_take_expired(&gate.permits, 102) == &gate.each[2]);
    CHECK_INT(gate.each[2].state, PERMIT_NONE);
    CHECK(permits_take_expired(&gate.permits, 102) == NULL);
    CHECK_INT(permits_next_expiry_ms(&gate.permits), 103);
    CHECK(permits_take_expired(&gate.permits, 1000) == &gate.each[3]);
    CHECK(permits_take_expired(&gate.permits, 1000) == NULL);
    CHECK_INT(gate.permits.queued, 0);
}

/* The deadline of a request may be nearer than that of one before it in the queue. */
static void
test_expiry_out_of_order(void)
{
    struct gate gate;
    gate_init(&gate);
    ask(&gate, 2);
    permits_ask(&gate.permits, &gate.each[2], 500);
    permits_ask(&gate.permits, &gate.each[3], 200);
    CHECK_INT(permits_next_expiry_ms(&gate.permits), 200);
    CHECK(permits_take_expired(&gate.permits, 300) == &gate.each[3]);
    CHECK_INT(permits_next_expiry_ms(&gate.permits), 500);
}

/* ---- against a model so simple that it cannot be wrong ---- */

#define ACTORS 12
#define STEPS 20000

struct model {
    size_t max, held, queued;
    int queue[ACTORS];
    enum permit_state states[ACTORS];
    int64_t expires_ms[ACTORS];
};

static void
model_drop_from_queue(struct model *model, size_t place)
{
    model->queued--;
    for (size_t i = place; i < model->queued; i++) {
        model->queue[i] = model->queue[i + 1];
    }
}

static enum permit_state
model_ask(struct model *model, int actor, int64_t expires_ms)
{
    if (model->held < model->max) {
        model->held++;
        model->states[actor] = PERMIT_HELD;
    }
    else if (model->queued < model->max) {
        model->queue[model->queued++] = actor;
        model->expires_ms[actor] = expires_ms;
        model->states[actor] = PERMIT_WAITING;
    }
    return model->states[actor];
}

/* The actor that is served next; -1: nobody. */
static int
model_give_back(struct model *model, int actor)
{
    enum permit_state state = model->states[actor];
    model->states[actor] = PERMIT_NONE;
    if (state == PERMIT_WAITING) {
        size_t place = 0;
        while (model->queue[place] != actor) {
            place++;
        }
        model_drop_from_queue(model, place);
    }
    if (state != PERMIT_HELD) {
        return -1;
    }
    if (model->queued == 0) {
        model->held--;
        return -1;
    }
    int next = model->queue[0];
    model_drop_from_queue(model, 0);
    model->states[next] = PERMIT_HELD;
    return next;
}

static int
model_take_expired(struct model *model, int64_t now_ms)
{
    for (size_t place = 0; place < model->queued; place++) {
        int actor = model->queue[place];
        if (model->expires_ms[actor] <= now_ms) {
            model_drop_from_queue(model, place);
            model->states[actor] = PERMIT_NONE;
            return actor;
        }
    }
    return -1;
}

static bool
agree(const struct model *model, const struct permits *permits, const struct permit actors[ACTORS])
{
    int64_t next_ms = CLOCK_NEVER;
    for (size_t place = 0; place < model->queued; place++) {
        int64_t expires_ms = model->expires_ms[model->queue[place]];
        next_ms = expires_ms < next_ms ? expires_ms : next_ms;
    }
    bool same = model->held == permits->held && model->queued == permits->queued
                && next_ms == permits_next_expiry_ms(permits);
    for (int i = 0; i < ACTORS; i++) {
        same = same && model->states[i] == actors[i].state
               && link_is_linked(&actors[i].link) == (actors[i].state == PERMIT_WAITING);
    }
    return same;
}

static int
index_of(const struct permit *permit, const struct permit actors[ACTORS])
{
    return permit == NULL ? -1 : (int)(permit - actors);
}

/* One random step of both; false when they differ. */
static bool
step(struct model *model, struct permits *permits, struct permit actors[ACTORS], unsigned *seed)
{
    int actor = rand_r(seed) % ACTORS;
    int64_t time_ms = rand_r(seed) % 100;
    struct permit *permit = &actors[actor];
    bool same;
    switch (rand_r(seed) % 8) {
    case 0:
        same = index_of(permits_take_expired(permits, time_ms), actors)
               == model_take_expired(model, time_ms);
        break;
    case 1:
    case 2:
    case 3:
        same = index_of(permits_give_back(permits, permit), actors)
               == model_give_back(model, actor);
        break;
    default:
        same = permit->state != PERMIT_NONE
               || permits_ask(permits, permit, time_ms) == model_ask(model, actor, time_ms);
        break;
    }
    return same && agree(model, permits, actors);
}

static void
test_agrees_with_the_model(void)
{
    for (size_t max = 1; max <= 7; max++) {
        struct model model = {.max = max};
        struct permits permits;
        struct permit actors[ACTORS];
        unsigned seed = (unsigned)max;
        permits_init(&permits, max);
        for (int i = 0; i < ACTORS; i++) {
            permit_init(&actors[i]);
        }
        for (int i = 0; i < STEPS; i++) {
            if (!step(&model, &permits, actors, &seed)) {
                harness_fail(__FILE__, __LINE__, "differs with max %zu at step %d", max, i);
                return;
            }
        }
    }
}

TESTS(TEST(holds_waits_refuses), TEST(passes_on_in_order), TEST(gives_back_once),
      TEST(waiter_that_leaves_frees_its_place), TEST(expiry), TEST(expiry_out_of_order),
      TEST(agrees_with_the_model))
