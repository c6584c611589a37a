/* The parts of the parser: what pattern.c and the pattern_*.c beside it share.
 *
 * A struct parser is pattern_parse's own and borrows the pattern, the text and the error.  Nodes
 * belong to the pattern from the moment they are added; a struct part only says which ones.
 *
 * One thread at a time. */
#ifndef FORWARDER_PATTERN_PARSE_H
#define FORWARDER_PATTERN_PARSE_H

#include "pattern_scan.h"

/* Anything from here on is "too wide to look behind". */
#define WIDTH_MAX (UINT64_C(1) << 40)

/* How many characters something matches, as re counts it. */
struct width {
    uint64_t min, max;
};

struct pattern_group {
    struct slice name; /* in the text; empty if it has none */
    struct width width;
    bool closed;
};

struct parser {
    struct scan scan;
    struct pattern *pattern;
    unsigned flags; /* global; a group has its own */
    bool unicode;   /* (?u) was given */
    unsigned depth;
    uint32_t behind_groups; /* the first group that a look-behind may not refer to; 0 = none */
    uint32_t wanted_group;  /* the highest one that a conditional names before it is there */
    size_t wanted_position;
    bool behind_varies; /* a look-behind is not of fixed width: said only if all else is well */
    size_t behind_position;
};

/* A piece of the tree under construction. */
struct part {
    uint32_t node; /* 0: nothing, such as a comment */
    struct width width;
    bool is_anchor; /* re refuses to repeat these two, unless in brackets */
    bool is_repeat;
};

/* A list of children under construction; `width` is that of all together but for the tail. */
struct parts {
    uint32_t first, last, count;
    struct width width;
    struct part tail;
};

static inline unsigned
utf8_length(uint32_t c)
{
    return c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
}

/* Byte `index` of a UTF-8 form of `length` bytes, which is more than one. */
static inline unsigned char
utf8_byte(uint32_t c, unsigned length, unsigned index)
{
    uint32_t bits = c >> 6 * (length - 1 - index);
    return (unsigned char)(index > 0 ? 0x80 | (bits & 0x3f) : (0xf00 >> length & 0xff) | bits);
}

/* --- pattern_tree.c --- */

uint64_t width_product(uint64_t a, uint64_t b);
struct width width_of_both(struct width a, struct width b);
struct width width_of_either(struct width a, struct width b);
/* Room for one more of `size` bytes in *array. */
enum err tree_make_room(void **array, uint32_t *room, uint32_t count, size_t size) MUST_CHECK;
enum err tree_add(struct parser *parser, enum pattern_kind kind, size_t position,
                  uint32_t *out) MUST_CHECK;
enum err tree_add_parent(struct parser *parser, enum pattern_kind kind, size_t position,
                         uint32_t child, uint32_t *out) MUST_CHECK;
/* A set of one byte, or of a letter in both cases, becomes a PATTERN_BYTE. */
enum err tree_add_set(struct parser *parser, const struct pattern_set *set, size_t position,
                      uint32_t *out) MUST_CHECK;
void parts_push(struct parser *parser, struct parts *parts, const struct part *part);
/* The list as one node: of `kind` if there are several. */
enum err parts_join(struct parser *parser, const struct parts *parts, enum pattern_kind kind,
                    size_t position, struct part *out) MUST_CHECK;
/* A character by the bytes of its UTF-8 form; caseless, also those that equal it then. */
enum err tree_add_literal(struct parser *parser, uint32_t c, unsigned flags, size_t position,
                          struct part *out) MUST_CHECK;

/* --- pattern_class.c: each stands on what it reads --- */

enum err parse_class(struct parser *parser, unsigned flags, struct part *out) MUST_CHECK;
enum err parse_dot(struct parser *parser, unsigned flags, struct part *out) MUST_CHECK;
/* \d \w and so on. */
enum err parse_category(struct parser *parser, char category, unsigned flags, size_t position,
                        struct part *out) MUST_CHECK;

/* --- pattern_flags.c --- */

struct flag_change {
    unsigned on, off;
    bool global; /* (?i) rather than (?i:...) */
};

/* A letter that may stand behind "(?" or another of them, or behind the '-'. */
bool parse_is_flag(int c);
/* Behind "(?"; takes the ')' or ':' too.  Global flags are in the parser when it returns. */
enum err parse_flags(struct parser *parser, struct flag_change *change) MUST_CHECK;

/* --- pattern_group.c --- */

/* `flags` are those of the sequence, which (?i) and the like change where `may_be_global`. */
enum err parse_group(struct parser *parser, unsigned *flags, bool may_be_global,
                     struct part *out) MUST_CHECK;
/* Behind the reference, for which `position` stands. */
enum err parse_backref(struct parser *parser, uint32_t group, unsigned flags, size_t position,
                       struct part *out) MUST_CHECK;

/* --- pattern.c --- */

/* `top`: not within brackets. */
enum err parse_alternate(struct parser *parser, unsigned flags, bool top,
                         struct part *out) MUST_CHECK;
enum err parse_sequence(struct parser *parser, unsigned *flags, bool first,
                        struct part *out) MUST_CHECK;

#endif
