#include "literals.h"

#include <string.h>

#include "rarity.h"

/* Beyond it a subtree counts as "anything": each level takes a few kilobytes of a thread's stack. */
#define DEPTH_MAX 40
/* A larger class has no texts of its own. */
#define CLASS_MAX 4
/* Rarity of sets, in bits: below the first a text is in most URLs, below the second it does not help another. */
#define SCORE_MIN (8 * RARITY_BIT)
#define SECOND_SCORE_MIN (14 * RARITY_BIT)

/* What is known of the text that a part of a pattern matches. */
struct found {
    enum {
        ANYTHING,
        EXACT,   /* it is one of `set` */
        FRAMED,  /* it begins with one of `set`, and it ends with one */
    } shape;
    struct literal_set set;
    struct literals required;   /* what it contains */
    int score, second_score;    /* of `required` */
};

/* Each match contains one text of this set as well. */
static void
require_scored(struct found *found, const struct literal_set *set, int score)
{
    struct literals *required = &found->required;
    bool has_best = required->best.count > 0;
    if (score < SCORE_MIN) {
        return;
    }
    if (score > found->score) {
        if (has_best && !literal_set_implies(set, &required->best)) {
            literal_set_copy(&required->second, &required->best);
            found->second_score = found->score;
        }
        literal_set_copy(&required->best, set);
        found->score = score;
    }
    else if (score > found->second_score && !literal_set_implies(&required->best, set)) {
        literal_set_copy(&required->second, set);
        found->second_score = score;
    }
}

static void
require(struct found *found, const struct literal_set *set)
{
    struct literal_set whole, simple;
    if (set->count == 1 && set->len[0] < LITERALS_TEXT_MIN) {
        return;
    }
    literal_set_copy(&whole, set);
    literal_set_copy_simplified(&simple, &whole);
    require_scored(found, &simple, literal_set_score(&simple));
}

static void
require_found(struct found *found, const struct found *part)
{
    if (part->shape == EXACT) {
        require(found, &part->set);
    }
    require_scored(found, &part->required.best, part->score);
    require_scored(found, &part->required.second, part->second_score);
}

/* --- the parts of a pattern --- */

static void
find(const struct pattern *pattern, uint32_t index, unsigned depth, struct found *out);

static void
found_anything(struct found *found)
{
    found->shape = ANYTHING;
    found->required.best.count = found->required.second.count = 0;
    found->score = found->second_score = -1;
}

/* The empty text, and so all that has no width. */
static void
found_empty(struct found *found)
{
    found_anything(found);
    found->shape = EXACT;
    literal_set_make_empty(&found->set);
}

static char
lower(unsigned byte)
{
    return (char)(byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte);
}

static void
find_byte(const struct pattern_node *node, struct found *found)
{
    found_empty(found);
    found->shape = node->byte < 0x80 ? EXACT : ANYTHING;
    found->set.len[0] = 1;
    found->set.text[0][0] = lower(node->byte);
}

static void
find_class(const struct pattern_set *class, struct found *found)
{
    found_empty(found);
    found->set.count = 0;
    for (unsigned byte = 0; byte < 256; byte += class->bits[byte / 8] != 0 ? 1 : 8) {
        bool is_lower = byte >= 'a' && byte <= 'z';
        if (!pattern_set_has(class, (unsigned char)byte)
            || (is_lower && pattern_set_has(class, (unsigned char)(byte - 'a' + 'A')))) {
            continue; /* not in it, or already there as the capital letter */
        }
        if (byte >= 0x80 || found->set.count == CLASS_MAX) {
            found_anything(found);
            return;
        }
        found->set.len[found->set.count] = 1;
        found->set.text[found->set.count++][0] = lower(byte);
    }
    if (found->set.count == 0) {
        found_anything(found);
    }
}

static void
find_repeat(const struct pattern *pattern, const struct pattern_node *node, unsigned depth,
            struct found *found)
{
    static const struct literal_set empty = {.count = 1};
    if (node->max == 0) {
        found_empty(found);
        return;
    }
    find(pattern, node->child, depth, found);
    if (node->min == 1 && node->max == 1) {
        return;
    }
    bool was_exact = found->shape == EXACT;
    if (was_exact && node->min == node->max && literal_set_repeat(&found->set, node->min)) {
        return;
    }
    if (node->min == 0) {
        bool is_optional = was_exact && node->max == 1 && literal_set_add_all(&found->set, &empty);
        found_anything(found);
        found->shape = is_optional ? EXACT : ANYTHING;
        return;
    }
    if (was_exact) {
        require(found, &found->set);
        found->shape = FRAMED;
    }
}

/* A run is what the last parts match, while their texts can be told: a necessary literal, once it ends. */
static void
find_concat(const struct pattern *pattern, uint32_t child, unsigned depth, struct found *found)
{
    struct literal_set run;
    struct found part;
    bool whole = true;
    found_anything(found);
    literal_set_make_empty(&run);
    for (; child != 0; child = pattern_node(pattern, child)->next) {
        find(pattern, child, depth, &part);
        if (part.shape != ANYTHING && part.set.count > 1) {
            require(found, &run); /* before alternatives multiply it */
        }
        bool joined = part.shape != ANYTHING && literal_set_extend(&run, &part.set);
        if (joined && part.shape == EXACT) {
            continue;
        }
        whole = false;
        require(found, &run);
        require_found(found, &part);
        if (part.shape != ANYTHING) {
            literal_set_copy(&run, &part.set);
        }
        else {
            literal_set_make_empty(&run);
        }
    }
    if (whole) {
        found->shape = EXACT;
        literal_set_copy(&found->set, &run);
    }
    require(found, &run);
}

/* The texts of which a match of the part contains one; NULL: there are none. */
static const struct literal_set *
texts_of(const struct found *found)
{
    if (found->shape == EXACT) {
        return &found->set;
    }
    return found->required.best.count > 0 ? &found->required.best : NULL;
}

static void
find_alternate(const struct pattern *pattern, uint32_t child, unsigned depth, struct found *found)
{
    struct found branch;
    struct literal_set all = {.count = 0};
    bool whole = true, complete = true;
    found_anything(found);
    for (; child != 0 && complete; child = pattern_node(pattern, child)->next) {
        find(pattern, child, depth, &branch);
        const struct literal_set *texts = texts_of(&branch);
        complete = texts != NULL && literal_set_add_all(&all, texts);
        whole = whole && branch.shape == EXACT;
    }
    if (!complete) {
        return;
    }
    require(found, &all);
    if (whole) {
        found->shape = EXACT;
        literal_set_copy(&found->set, &all);
    }
}

static void
find(const struct pattern *pattern, uint32_t index, unsigned depth, struct found *out)
{
    const struct pattern_node *node = pattern_node(pattern, index);
    if (depth++ > DEPTH_MAX) {
        found_anything(out);
        return;
    }
    switch (node->kind) {
    case PATTERN_EMPTY:
    case PATTERN_BEGIN:
    case PATTERN_LINE_BEGIN:
    case PATTERN_END:
    case PATTERN_LINE_END:
    case PATTERN_VERY_END:
    case PATTERN_BOUNDARY:
    case PATTERN_NOT_BOUNDARY:
    case PATTERN_LOOK:
        found_empty(out);
        break;
    case PATTERN_BYTE:
        find_byte(node, out);
        break;
    case PATTERN_CLASS:
        find_class(pattern_set(pattern, node), out);
        break;
    case PATTERN_CONCAT:
        find_concat(pattern, node->child, depth, out);
        break;
    case PATTERN_ALTERNATE:
    case PATTERN_CONDITIONAL:
        find_alternate(pattern, node->child, depth, out);
        break;
    case PATTERN_REPEAT:
        find_repeat(pattern, node, depth, out);
        break;
    case PATTERN_CAPTURE:
    case PATTERN_ATOMIC:
        find(pattern, node->child, depth, out);
        break;
    default: /* PATTERN_BACKREF: it may have matched the empty text */
        found_anything(out);
        break;
    }
}

void
literals_find(const struct pattern *pattern, struct literals *out)
{
    struct found part, found;
    found_anything(&found);
    find(pattern, pattern->root, 0, &part);
    require_found(&found, &part);
    literal_set_copy(&out->best, &found.required.best);
    out->second.count = 0;
    if (found.second_score >= SECOND_SCORE_MIN) {
        literal_set_copy(&out->second, &found.required.second);
    }
}

static uint8_t *
pack_set(const struct literal_set *set, uint8_t *out)
{
    *out++ = set->count;
    for (unsigned i = 0; i < set->count; i++) {
        *out++ = set->len[i];
        memcpy(out, set->text[i], set->len[i]);
        out += set->len[i];
    }
    return out;
}

size_t
literals_pack(const struct literals *literals, uint8_t out[LITERALS_PACKED_MAX])
{
    return (size_t)(pack_set(&literals->second, pack_set(&literals->best, out)) - out);
}
