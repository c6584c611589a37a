#include "verdict.h"

#include "harness.h"

#define RULES                                                                                      \
    "[{\"id\": 1, \"pattern\": \"/admin\"}, {\"id\": 2, \"pattern\": \"%7Euser\"}, "               \
    "{\"id\": 3, \"pattern\": \"/far-behind$\"}]"

/* The gate: how often it was left, whether somebody is outside, and who comes to the desk then. */
static struct {
    int left;
    bool outside;
    struct verdict_desk *desk;
    const struct rules *rules;
    struct rules_hit visitor;
} gate;

static void *
leave(void)
{
    gate.left++;
    gate.outside = true;
    if (gate.desk != NULL) {
        gate.visitor =
            verdict_of_form(gate.desk, gate.rules, (struct slice)SLICE_LITERAL("http://a/admin"));
    }
    return &gate;
}

static void
enter(void *outside)
{
    CHECK(outside == &gate && gate.outside);
    gate.outside = false;
}

struct rig {
    struct verdict_desk desk;
    struct rules *rules;
    struct rules_report report;
};

static void
rig_fini(struct rig *rig)
{
    verdict_desk_fini(&rig->desk);
    rules_unref(rig->rules);
    rules_report_fini(&rig->report);
}

static enum err
rig_init(struct rig *rig)
{
    struct wire_rules list;
    char message[WIRE_MESSAGE_SIZE];
    const struct verdict_gate hooks = {leave, enter};
    memset(&gate, 0, sizeof gate);
    enum err err = verdict_desk_init(&rig->desk, &hooks);
    if (!err) {
        err = wire_parse_rules((struct slice)SLICE_LITERAL(RULES), &list, message);
    }
    if (!err) {
        err = rules_build(&list, NULL, &rig->rules, &rig->report);
        wire_rules_fini(&list);
    }
    return err;
}

#define RIG(name)                                                                                  \
    CLEANUP(rig_fini) struct rig name##_rig = {.rules = NULL};                                     \
    struct rig *name = &name##_rig;                                                                \
    TRY(rig_init(name))

static enum err
ask(struct rig *rig, const char *path, struct verdict *out)
{
    struct url url;
    struct url_parts parts = {
        SLICE_LITERAL("http"), SLICE_LITERAL("a.test"), 80, {path, strlen(path)}};
    enum err err = url_build(&parts, &url);
    if (!err) {
        *out = verdict_of(&rig->desk, rig->rules, &url);
        url_fini(&url);
    }
    return err;
}

/* A path such that the form has `len` bytes. */
static const char *
path_of(size_t len, const char *end)
{
    static char path[2 * VERDICT_LONG];
    size_t fill = len - strlen("http://a.test") - strlen(end);
    memset(path, 'x', fill);
    path[0] = '/';
    snprintf(path + fill, sizeof path - fill, "%s", end);
    return path;
}

static void
test_forms(void)
{
    struct verdict verdict;
    RIG(rig);
    TRY(ask(rig, "/%61dmin", &verdict));
    CHECK(verdict.hit.outcome == RULES_MATCH && verdict.hit.id->integer == 1 && !verdict.of_raw);
    TRY(ask(rig, "/%7Euser", &verdict));
    CHECK(verdict.hit.outcome == RULES_MATCH && verdict.hit.id->integer == 2 && verdict.of_raw);
    TRY(ask(rig, "/", &verdict));
    CHECK(verdict.hit.outcome == RULES_NO_MATCH && !verdict.of_raw);
    CHECK_INT(gate.left, 0);
}

static void
test_long_form_is_matched_outside(void)
{
    struct verdict verdict;
    RIG(rig);
    TRY(ask(rig, path_of(VERDICT_LONG, ""), &verdict));
    CHECK_INT(verdict.hit.outcome, RULES_NO_MATCH);
    CHECK_INT(gate.left, 0);
    TRY(ask(rig, path_of(VERDICT_LONG + 1, "/far-behind"), &verdict));
    REQUIRE(verdict.hit.outcome == RULES_MATCH);
    CHECK_INT(verdict.hit.id->integer, 3);
    CHECK_INT(gate.left, 1);
    CHECK(!gate.outside);
    /* Both forms are long, and differ. */
    TRY(ask(rig, path_of(VERDICT_LONG + 10, "/%7Eusers"), &verdict));
    CHECK(verdict.hit.outcome == RULES_MATCH && verdict.of_raw);
    CHECK_INT(gate.left, 3);
}

/* Somebody else asks meanwhile: with a scratch of their own, whichever is used later. */
static void
test_desk_is_asked_meanwhile(void)
{
    struct verdict verdict;
    RIG(rig);
    gate.desk = &rig->desk;
    gate.rules = rig->rules;
    for (int i = 0; i < 2; i++) {
        gate.visitor = (struct rules_hit){.outcome = RULES_NO_MATCH};
        TRY(ask(rig, path_of(VERDICT_LONG + 1, "/far-behind"), &verdict));
        REQUIRE(verdict.hit.outcome == RULES_MATCH && gate.visitor.outcome == RULES_MATCH);
        CHECK_INT(verdict.hit.id->integer, 3);
        CHECK_INT(gate.visitor.id->integer, 1);
    }
    CHECK(rig->desk.scratch != NULL);
}

/* Where nobody waits. */
static void
test_without_a_gate(void)
{
    struct verdict verdict;
    RIG(rig);
    rig->desk.gate = (struct verdict_gate){NULL, NULL};
    TRY(ask(rig, path_of(VERDICT_LONG + 1, "/admin"), &verdict));
    CHECK_INT(verdict.hit.outcome, RULES_MATCH);
    CHECK_INT(gate.left, 0);
}

TESTS(TEST(forms), TEST(long_form_is_matched_outside), TEST(desk_is_asked_meanwhile),
      TEST(without_a_gate))
