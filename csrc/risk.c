#include "risk.h"

/* Of a part of a pattern, all in bits. */
struct effort {
    unsigned ways;   /* in which it can match at one place: what follows is tried so often if it fails */
    unsigned worst;  /* tries of what can fail within it */
    bool fallible;
};

static struct effort
effort_of(const struct pattern *pattern, uint32_t index);

static unsigned
bits_for(uint64_t number)
{
    unsigned bits = 0;
    while (bits < RISK_MAX_BITS - 1 && (UINT64_C(1) << bits) < number) {
        bits++;
    }
    return bits;
}

static unsigned
sum_of(uint64_t bits, unsigned more)
{
    return bits + more > RISK_MAX_BITS ? RISK_MAX_BITS : (unsigned)bits + more;
}

/* What captures add is nothing. */
static const struct pattern_node *
without_captures(const struct pattern *pattern, uint32_t index)
{
    const struct pattern_node *node = pattern_node(pattern, index);
    while (node->kind == PATTERN_CAPTURE) {
        node = pattern_node(pattern, node->child);
    }
    return node;
}

/* One byte of the subject, out of some. */
static bool
is_byte(const struct pattern_node *node)
{
    return node->kind == PATTERN_BYTE || node->kind == PATTERN_CLASS;
}

/* Of one that is_byte. */
static struct pattern_set
bytes_of(const struct pattern *pattern, const struct pattern_node *node)
{
    struct pattern_set bytes = {{0}};
    if (node->kind == PATTERN_CLASS) {
        return *pattern_set(pattern, node);
    }
    bytes.bits[node->byte / 8] |= (uint8_t)(1 << node->byte % 8);
    if (node->caseless) {
        bytes.bits[(node->byte ^ 0x20) / 8] |= (uint8_t)(1 << node->byte % 8);
    }
    return bytes;
}

static bool
is_disjoint(const struct pattern *pattern, const struct pattern_node *a, const struct pattern_node *b)
{
    struct pattern_set first = bytes_of(pattern, a), second = bytes_of(pattern, b);
    unsigned common = 0;
    for (size_t i = 0; i < sizeof first.bits; i++) {
        common |= first.bits[i] & second.bits[i];
    }
    return common == 0;
}

/* ".*": it takes all of a line, and a URL is one. */
static bool
is_dot_star(const struct pattern *pattern, const struct pattern_node *node)
{
    if (node->kind != PATTERN_REPEAT || node->min > 0 || node->max != PATTERN_UNLIMITED) {
        return false;
    }
    const struct pattern_node *body = pattern_node(pattern, node->child);
    if (body->kind != PATTERN_CLASS) {
        return false;
    }
    struct pattern_set bytes = bytes_of(pattern, body);
    unsigned common = 0xff;
    bytes.bits['\n' / 8] |= 1 << '\n' % 8;
    for (size_t i = 0; i < sizeof bytes.bits; i++) {
        common &= bytes.bits[i];
    }
    return common == 0xff;
}

static struct effort
effort_of_repeat(const struct pattern *pattern, const struct pattern_node *node)
{
    struct effort body = effort_of(pattern, node->child);
    bool endless = node->max == PATTERN_UNLIMITED;
    unsigned lengths = endless ? RISK_LENGTH_BITS : bits_for((uint64_t)node->max - node->min + 1);
    uint64_t times = endless ? RISK_MAX_BITS : node->max;
    struct effort effort = {
        .ways = sum_of(times * body.ways, lengths),
        .worst = sum_of(node->max > 1 ? times * body.ways : 0, body.worst),
        .fallible = node->min > 0 && body.fallible,
    };
    if (node->greed == PATTERN_POSSESSIVE) {
        effort.ways = 0;
    }
    return effort;
}

static struct effort
effort_of_concat(const struct pattern *pattern, uint32_t child)
{
    struct effort whole = {.ways = 0};
    const struct pattern_node *before = NULL;
    for (; child != 0; child = pattern_node(pattern, child)->next) {
        const struct pattern_node *node = without_captures(pattern, child);
        const struct pattern_node *after = pattern_node(pattern, pattern_node(pattern, child)->next);
        struct effort part = effort_of(pattern, child);
        bool ends = node->kind == PATTERN_END || node->kind == PATTERN_VERY_END || node->kind == PATTERN_LINE_END;
        if (ends && before != NULL && is_dot_star(pattern, before)) {
            part.fallible = false;
        }
        if (part.fallible) {
            unsigned worst = sum_of(whole.ways, part.worst);
            whole.worst = worst > whole.worst ? worst : whole.worst;
            whole.fallible = true;
        }
        /* PCRE2 does not give back what the next byte cannot be. */
        bool keeps = node->kind == PATTERN_REPEAT && pattern_node(pattern, child)->next != 0 && is_byte(after)
                     && is_byte(pattern_node(pattern, node->child))
                     && is_disjoint(pattern, pattern_node(pattern, node->child), after);
        whole.ways = keeps ? whole.ways : sum_of(whole.ways, part.ways);
        before = node;
    }
    return whole;
}

static struct effort
effort_of_alternate(const struct pattern *pattern, uint32_t child)
{
    struct effort whole = {.fallible = true};
    unsigned branches = 0;
    for (; child != 0; child = pattern_node(pattern, child)->next, branches++) {
        struct effort branch = effort_of(pattern, child);
        whole.ways = branch.ways > whole.ways ? branch.ways : whole.ways;
        whole.worst = branch.worst > whole.worst ? branch.worst : whole.worst;
        whole.fallible = whole.fallible && branch.fallible;
    }
    whole.ways = sum_of(whole.ways, bits_for(branches));
    return whole;
}

static struct effort
effort_of(const struct pattern *pattern, uint32_t index)
{
    const struct pattern_node *node = pattern_node(pattern, index);
    struct effort effort;
    switch (node->kind) {
    case PATTERN_EMPTY:
        return (struct effort){.fallible = false};
    case PATTERN_CONCAT:
        return effort_of_concat(pattern, node->child);
    case PATTERN_ALTERNATE:
    case PATTERN_CONDITIONAL:
        return effort_of_alternate(pattern, node->child);
    case PATTERN_REPEAT:
        return effort_of_repeat(pattern, node);
    case PATTERN_CAPTURE:
        return effort_of(pattern, node->child);
    case PATTERN_ATOMIC:
    case PATTERN_LOOK:
        effort = effort_of(pattern, node->child);
        effort.ways = 0;
        effort.fallible = effort.fallible || node->kind == PATTERN_LOOK;
        return effort;
    default:
        return (struct effort){.fallible = true};
    }
}

/* Is the pattern tried at the subject's begin only?  PCRE2 sees to it for ".*", too. */
static bool
is_anchored(const struct pattern *pattern, uint32_t index)
{
    const struct pattern_node *node = without_captures(pattern, index);
    while (node->kind == PATTERN_CONCAT) {
        node = without_captures(pattern, node->child);
    }
    return node->kind == PATTERN_BEGIN || is_dot_star(pattern, node);
}

unsigned
risk_bits(const struct pattern *pattern)
{
    struct effort effort = effort_of(pattern, pattern->root);
    return sum_of(effort.worst, is_anchored(pattern, pattern->root) ? 0 : RISK_LENGTH_BITS);
}
