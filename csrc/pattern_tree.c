#include <string.h>

#include "casing.h"
#include "mem.h"
#include "pattern_parse.h"

/* --- widths --- */

static uint64_t
width_sum(uint64_t a, uint64_t b)
{
    return a + b < WIDTH_MAX ? a + b : WIDTH_MAX;
}

uint64_t
width_product(uint64_t a, uint64_t b)
{
    uint64_t product;
    return !__builtin_mul_overflow(a, b, &product) && product < WIDTH_MAX ? product : WIDTH_MAX;
}

struct width
width_of_both(struct width a, struct width b)
{
    return (struct width){width_sum(a.min, b.min), width_sum(a.max, b.max)};
}

struct width
width_of_either(struct width a, struct width b)
{
    return (struct width){a.min < b.min ? a.min : b.min, a.max > b.max ? a.max : b.max};
}

/* --- the tree --- */

void
pattern_init(struct pattern *pattern)
{
    *pattern = (struct pattern){.nodes = NULL};
}

void
pattern_fini(struct pattern *pattern)
{
    mem_free(pattern->nodes);
    mem_free(pattern->sets);
    mem_free(pattern->groups);
    pattern_init(pattern);
}

enum err
tree_make_room(void **array, uint32_t *room, uint32_t count, size_t size)
{
    if (count < *room) {
        return ERR_OK;
    }
    uint32_t grown = *room == 0 ? 32 : *room * 2;
    size_t bytes;
    if (grown <= count || !size_mul(grown, size, &bytes)) {
        return ERR_MEMORY;
    }
    void *moved = mem_realloc(*array, bytes);
    if (moved == NULL) {
        return ERR_MEMORY;
    }
    *array = moved;
    *room = grown;
    return ERR_OK;
}

enum err
tree_add(struct parser *parser, enum pattern_kind kind, size_t position, uint32_t *out)
{
    struct pattern *pattern = parser->pattern;
    void *nodes = pattern->nodes;
    enum err err =
        tree_make_room(&nodes, &pattern->node_room, pattern->node_count, sizeof *pattern->nodes);
    if (err) {
        return err;
    }
    pattern->nodes = nodes;
    *out = pattern->node_count++;
    pattern->nodes[*out] =
        (struct pattern_node){.kind = (uint8_t)kind, .position = (uint32_t)position};
    return ERR_OK;
}

enum err
tree_add_parent(struct parser *parser, enum pattern_kind kind, size_t position, uint32_t child,
                uint32_t *out)
{
    enum err err = tree_add(parser, kind, position, out);
    if (!err) {
        parser->pattern->nodes[*out].child = child;
    }
    return err;
}

static enum err
add_byte(struct parser *parser, unsigned char byte, bool caseless, size_t position, uint32_t *out)
{
    enum err err = tree_add(parser, PATTERN_BYTE, position, out);
    if (!err) {
        unsigned char small = byte | 0x20;
        struct pattern_node *node = &parser->pattern->nodes[*out];
        node->byte = byte;
        node->caseless = caseless && small >= 'a' && small <= 'z';
    }
    return err;
}

enum err
tree_add_set(struct parser *parser, const struct pattern_set *set, size_t position, uint32_t *out)
{
    struct pattern *pattern = parser->pattern;
    unsigned count = 0;
    unsigned char members[2] = {0};
    for (unsigned i = 0; i < sizeof set->bits && count <= 2; i++) {
        for (unsigned bits = set->bits[i]; bits != 0 && count <= 2; bits &= bits - 1, count++) {
            members[count & 1] = (unsigned char)(i * 8 + (unsigned)__builtin_ctz(bits));
        }
    }
    unsigned char small = members[1];
    bool pair = count == 2 && members[0] == (small ^ 0x20) && small >= 'a' && small <= 'z';
    if (count == 1 || pair) {
        return add_byte(parser, pair ? small : members[0], pair, position, out);
    }
    void *sets = pattern->sets;
    enum err err = tree_make_room(&sets, &pattern->set_room, pattern->set_count, sizeof *set);
    if (err) {
        return err;
    }
    pattern->sets = sets;
    err = tree_add(parser, PATTERN_CLASS, position, out);
    if (!err) {
        pattern->nodes[*out].set = pattern->set_count;
        pattern->sets[pattern->set_count++] = *set;
    }
    return err;
}

/* --- lists of children --- */

void
parts_push(struct parser *parser, struct parts *parts, const struct part *part)
{
    if (parts->count++ == 0) {
        parts->first = part->node;
    }
    else {
        parser->pattern->nodes[parts->last].next = part->node;
    }
    parts->last = part->node;
    parts->width = width_of_both(parts->width, parts->tail.width);
    parts->tail = *part;
}

enum err
parts_join(struct parser *parser, const struct parts *parts, enum pattern_kind kind,
           size_t position, struct part *out)
{
    *out = (struct part){.node = parts->first};
    out->width = width_of_both(parts->width, parts->tail.width);
    if (parts->count == 0) {
        return tree_add(parser, PATTERN_EMPTY, position, &out->node);
    }
    return parts->count == 1 ? ERR_OK
                             : tree_add_parent(parser, kind, position, parts->first, &out->node);
}

/* --- characters --- */

static const struct width one_wide = {1, 1};

/* One character, by the bytes of its UTF-8 form. */
static enum err
add_character(struct parser *parser, uint32_t c, unsigned flags, size_t position, struct part *out)
{
    if (c < 0x80) {
        *out = (struct part){.width = one_wide};
        return add_byte(parser, (unsigned char)c, flags & PATTERN_IGNORECASE, position, &out->node);
    }
    struct parts parts = {0};
    unsigned length = utf8_length(c);
    for (unsigned i = 0; i < length; i++) {
        struct part part = {.node = 0};
        enum err err = add_byte(parser, utf8_byte(c, length, i), false, position, &part.node);
        if (err) {
            return err;
        }
        parts_push(parser, &parts, &part);
    }
    enum err err = parts_join(parser, &parts, PATTERN_CONCAT, position, out);
    out->width = one_wide;
    return err;
}

static bool
run_has(const struct case_run *run, uint32_t c)
{
    return run->low <= c && c <= run->high && (c - run->low) % run->step == 0;
}

enum err
tree_add_literal(struct parser *parser, uint32_t c, unsigned flags, size_t position,
                 struct part *out)
{
    bool folded = (flags & (PATTERN_IGNORECASE | PATTERN_ASCII)) == PATTERN_IGNORECASE;
    struct parts parts = {0};
    struct part part;
    enum err err = add_character(parser, c, flags, position, &part);
    if (err) {
        return err;
    }
    parts_push(parser, &parts, &part);
    for (const struct case_run *run = case_runs; folded && c >= 0x80 && run->step != 0; run++) {
        if (!run_has(run, c)) {
            continue;
        }
        err = add_character(parser, c + (uint32_t)run->distance, flags, position, &part);
        if (err) {
            return err;
        }
        parts_push(parser, &parts, &part);
    }
    err = parts_join(parser, &parts, PATTERN_ALTERNATE, position, out);
    out->width = one_wide;
    return err;
}
