/* A few short texts, lower-case ASCII, and what it is worth to look for them in a URL.
 *
 * The struct is the caller's memory and owns nothing.
 *
 * Any thread. */
#ifndef FORWARDER_LITERAL_SET_H
#define FORWARDER_LITERAL_SET_H

#include "base.h"

/* More alternatives than this, or a longer text, cost more than they save. */
#define LITERALS_SET_MAX 16
#define LITERALS_TEXT_MAX 47
/* What can be looked up at all. */
#define LITERALS_TEXT_MIN 2

struct literal_set {
    uint8_t count;
    uint8_t len[LITERALS_SET_MAX];
    char text[LITERALS_SET_MAX][LITERALS_TEXT_MAX + 1];
};

void literal_set_copy(struct literal_set *to, const struct literal_set *from);
/* Leaves one text, the empty one. */
void literal_set_make_empty(struct literal_set *set);
/* Does each text of `set` hold one of `other`?  True of a `set` without texts. */
bool literal_set_implies(const struct literal_set *set, const struct literal_set *other);

/* These three return false, and change nothing, when the set would become too large. */
bool literal_set_add_all(struct literal_set *set, const struct literal_set *more) MUST_CHECK;
/* Each text of `set` followed by each of `tail`. */
bool literal_set_extend(struct literal_set *set, const struct literal_set *tail) MUST_CHECK;
/* From the texts of one thing to those of `times` of it in a row. */
bool literal_set_repeat(struct literal_set *set, uint32_t times) MUST_CHECK;

/* Fewer and shorter texts, of which whatever holds one of `from` holds one, too.  Trims those of `from` on the way. */
void literal_set_copy_simplified(struct literal_set *to, struct literal_set *from);
/* How rare it is that a URL holds any of the texts, in 1/RARITY_BIT bits; -1 when they are too short to look for. */
int literal_set_score(const struct literal_set *set);

#endif
