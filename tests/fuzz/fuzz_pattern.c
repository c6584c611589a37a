/* A rule of the backend: parsed and translated, or refused with a place and a reason.  The first
 * line of the input is searched, the rest is the rule. */
#include "fuzz.h"

#include "dialect.h"
#include "mem.h"

/* Brackets, and what may stand between two of them. */
#define DEPTH_MAX (4 * PATTERN_DEPTH_MAX + 4)

static void
check_error(const struct regex_error *error, size_t rule_len)
{
    INVARIANT(error->position <= rule_len);
    INVARIANT(error->message[0] != '\0');
    for (const char *c = error->message; *c != '\0'; c++) {
        INVARIANT(*c >= ' ' && *c < 0x7f);
    }
}

static size_t
count_children(const struct pattern *pattern, const struct pattern_node *node)
{
    size_t count = 0;
    for (uint32_t i = node->child; i != 0; i = pattern_node(pattern, i)->next) {
        INVARIANT(i < pattern->node_count && count < pattern->node_count);
        count++;
    }
    return count;
}

static void
check_node(const struct pattern *pattern, uint32_t index, size_t rule_len, unsigned depth)
{
    const struct pattern_node *node = pattern_node(pattern, index);
    size_t children = count_children(pattern, node);
    INVARIANT(depth < DEPTH_MAX && node->position <= rule_len);
    switch ((enum pattern_kind)node->kind) {
    case PATTERN_CONCAT:
    case PATTERN_ALTERNATE:
        INVARIANT(children >= 2);
        break;
    case PATTERN_CONDITIONAL:
        INVARIANT(children == 2 && node->group >= 1 && node->group <= pattern->group_count);
        break;
    case PATTERN_CAPTURE:
        INVARIANT(children == 1 && node->group >= 1 && node->group <= pattern->group_count);
        break;
    case PATTERN_REPEAT:
        INVARIANT(children == 1 && node->min <= node->max);
        break;
    case PATTERN_ATOMIC:
    case PATTERN_LOOK:
        INVARIANT(children == 1);
        break;
    case PATTERN_BACKREF:
        INVARIANT(children == 0 && node->group >= 1 && node->group <= pattern->group_count);
        break;
    case PATTERN_CLASS:
        INVARIANT(children == 0 && node->set < pattern->set_count);
        break;
    default:
        INVARIANT(children == 0);
    }
    for (uint32_t i = node->child; i != 0; i = pattern_node(pattern, i)->next) {
        check_node(pattern, i, rule_len, depth + 1);
    }
}

/* The same rule again has the same translation. */
static void
check_again(struct dialect *dialect, struct slice rule)
{
    struct regex_error error;
    char *before = mem_copy(buf_string(&dialect->text), dialect->text.len);
    INVARIANT(before != NULL);
    INVARIANT(!dialect_translate(dialect, rule, 0, &error));
    INVARIANT(strcmp(before, buf_string(&dialect->text)) == 0);
    mem_free(before);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rule = {(const char *)data, size};
    struct slice subject = fuzz_take_line(&rule);
    struct dialect dialect;
    struct regex_error error;
    struct regex *regex = NULL;
    struct regex_scratch *scratch;
    dialect_init(&dialect);
    enum err err = dialect_translate(&dialect, rule, 0, &error);
    if (!err) {
        check_node(&dialect.pattern, dialect.pattern.root, rule.len, 0);
        check_again(&dialect, rule);
        err = dialect_compile(&dialect, &regex, &error);
    }
    INVARIANT(!err || err == ERR_INVALID);
    if (err) {
        check_error(&error, rule.len);
    }
    else {
        INVARIANT(!regex_scratch_create(&scratch));
        (void)regex_search(regex, subject, scratch);
        regex_scratch_destroy(scratch);
    }
    regex_destroy(regex);
    dialect_fini(&dialect);
    return 0;
}
