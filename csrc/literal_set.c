#include "literal_set.h"

#include <string.h>

#include "rarity.h"

/* What a text's first byte is worth.  The rarest stretch of SCORE_WINDOW bytes counts, for more are
 * not looked up. */
#define FIRST_BYTE (4 * RARITY_BIT)
#define SCORE_WINDOW 8

void
literal_set_copy(struct literal_set *to, const struct literal_set *from)
{
    to->count = from->count;
    memcpy(to->len, from->len, sizeof to->len);
    memcpy(to->text, from->text, from->count * sizeof from->text[0]);
}

void
literal_set_make_empty(struct literal_set *set)
{
    set->count = 1;
    set->len[0] = 0;
}

bool
literal_set_add_all(struct literal_set *set, const struct literal_set *more)
{
    if (set->count + more->count > LITERALS_SET_MAX) {
        return false;
    }
    for (unsigned i = 0; i < more->count; i++) {
        set->len[set->count] = more->len[i];
        memcpy(set->text[set->count++], more->text[i], more->len[i]);
    }
    return true;
}

static unsigned
longest_in(const struct literal_set *set)
{
    unsigned longest = 0;
    for (unsigned i = 0; i < set->count; i++) {
        longest = set->len[i] > longest ? set->len[i] : longest;
    }
    return longest;
}

bool
literal_set_extend(struct literal_set *set, const struct literal_set *tail)
{
    unsigned count = (unsigned)set->count * tail->count;
    if (count > LITERALS_SET_MAX || longest_in(set) + longest_in(tail) > LITERALS_TEXT_MAX) {
        return false;
    }
    /* From the end, so that no text is overwritten before it was copied. */
    for (unsigned at = count; at-- > 0;) {
        unsigned head = at / tail->count, end = at % tail->count;
        memmove(set->text[at], set->text[head], set->len[head]);
        memcpy(set->text[at] + set->len[head], tail->text[end], tail->len[end]);
        set->len[at] = (uint8_t)(set->len[head] + tail->len[end]);
    }
    set->count = (uint8_t)count;
    return true;
}

/* A scheme tells nothing; what follows it may as well begin with the slash. */
static void
trim_scheme(struct literal_set *set, unsigned at)
{
    static const struct slice schemes[] = {SLICE_LITERAL("https://"), SLICE_LITERAL("http://")};
    for (size_t i = 0; i < COUNT_OF(schemes); i++) {
        if (set->len[at] >= schemes[i].len && memcmp(set->text[at], schemes[i].data, schemes[i].len) == 0) {
            unsigned cut = (unsigned)schemes[i].len - 1;
            set->len[at] = (uint8_t)(set->len[at] - cut);
            memmove(set->text[at], set->text[at] + cut, set->len[at]);
        }
    }
}

/* Is there another text that is part of this one?  Of equal ones the first stays. */
static bool
is_needless(const struct literal_set *set, unsigned at)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (i != at && set->len[i] <= set->len[at] && (set->len[i] < set->len[at] || i < at)
            && memmem(set->text[at], set->len[at], set->text[i], set->len[i]) != NULL) {
            return true;
        }
    }
    return false;
}

/* Who has found a text that holds another has found the other. */
void
literal_set_copy_simplified(struct literal_set *to, struct literal_set *from)
{
    for (unsigned i = 0; i < from->count; i++) {
        trim_scheme(from, i);
    }
    to->count = 0;
    for (unsigned i = 0; i < from->count; i++) {
        if (from->count == 1 || !is_needless(from, i)) {
            to->len[to->count] = from->len[i];
            memcpy(to->text[to->count++], from->text[i], from->len[i]);
        }
    }
}

bool
literal_set_implies(const struct literal_set *set, const struct literal_set *other)
{
    for (unsigned i = 0; i < set->count; i++) {
        bool holds = false;
        for (unsigned k = 0; k < other->count && !holds; k++) {
            holds = memmem(set->text[i], set->len[i], other->text[k], other->len[k]) != NULL;
        }
        if (!holds) {
            return false;
        }
    }
    return true;
}

static int
text_score(const char *text, unsigned len)
{
    static const struct slice usual = SLICE_LITERAL("https://www. http://www. .com/ .html");
    unsigned sum = 0, best = 0;
    if (memmem(usual.data, usual.len, text, len) != NULL) {
        return 0; /* a row of letters, each of which surprises, and yet in most URLs */
    }
    for (unsigned i = 1; i < len; i++) {
        sum += rarity_of(text[i - 1], text[i]);
        if (i >= SCORE_WINDOW) {
            sum -= rarity_of(text[i - SCORE_WINDOW], text[i - SCORE_WINDOW + 1]);
        }
        best = sum > best ? sum : best;
    }
    return (int)best + FIRST_BYTE;
}

/* The least rare text counts. */
int
literal_set_score(const struct literal_set *set)
{
    int worst = INT32_MAX, bits = 0;
    for (unsigned i = 0; i < set->count; i++) {
        if (set->len[i] < LITERALS_TEXT_MIN) {
            return -1;
        }
        int score = text_score(set->text[i], set->len[i]);
        worst = score < worst ? score : worst;
    }
    while (set->count >> (bits + 1) != 0) {
        bits++;
    }
    return set->count > 0 ? worst - bits * RARITY_BIT : -1;
}

bool
literal_set_repeat(struct literal_set *set, uint32_t times)
{
    struct literal_set once, all;
    bool is_empty = longest_in(set) == 0;
    literal_set_copy(&once, set);
    literal_set_make_empty(&all);
    if (!is_empty && times > LITERALS_TEXT_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < times && !is_empty; i++) {
        if (!literal_set_extend(&all, &once)) {
            return false;
        }
    }
    literal_set_copy(set, &all);
    return true;
}
