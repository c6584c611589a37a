/* A rule as it was written, for Python's re: parsed into a tree, refused where Python refuses it.
 *
 * A struct pattern is the caller's memory (pattern_init, pattern_fini) and owns its nodes and sets;
 * each pattern_parse replaces them and keeps the memory, so that one struct serves a hundred
 * thousand rules.  Nodes refer to each other by index, not by pointer.
 *
 * One thread at a time. */
#ifndef FORWARDER_PATTERN_H
#define FORWARDER_PATTERN_H

#include "regex.h"

/* What a rule may cost at most; each is named in the refusal. */
#define PATTERN_BYTES_MAX 65535
#define PATTERN_DEPTH_MAX 100 /* brackets within brackets; the tree is four times as deep */
#define PATTERN_UNLIMITED UINT32_MAX

/* The flags of re.compile, under other numbers. */
enum pattern_flag {
    PATTERN_ASCII = 1 << 0,
    PATTERN_IGNORECASE = 1 << 1,
    PATTERN_MULTILINE = 1 << 2,
    PATTERN_DOTALL = 1 << 3,
    PATTERN_VERBOSE = 1 << 4,
};

/* Brackets, comments, blanks and inline flags leave no node: the tree holds what they mean. */
enum pattern_kind {
    PATTERN_EMPTY,        /* matches nothing at all, everywhere: "", "a|", "()" */
    PATTERN_BYTE,         /* one byte of the subject; caseless if `caseless` */
    PATTERN_CLASS,        /* one byte out of `set`; folded and complemented already */
    PATTERN_BEGIN,        /* \A, or ^ without (?m) */
    PATTERN_LINE_BEGIN,   /* ^ with (?m) */
    PATTERN_END,          /* $ without (?m): the end, or before a last newline */
    PATTERN_LINE_END,     /* $ with (?m) */
    PATTERN_VERY_END,     /* \Z */
    PATTERN_BOUNDARY,     /* \b */
    PATTERN_NOT_BOUNDARY, /* \B */
    PATTERN_CONCAT,       /* two children or more, in order */
    PATTERN_ALTERNATE,    /* two children or more, in order */
    PATTERN_REPEAT,       /* one child, min to max times */
    PATTERN_CAPTURE,      /* one child; `group` is its number */
    PATTERN_ATOMIC,       /* one child: (?>...) */
    PATTERN_LOOK,         /* one child: (?=...) (?!...) (?<=...) (?<!...) */
    PATTERN_BACKREF,      /* what `group` matched; caseless if `caseless` */
    PATTERN_CONDITIONAL,  /* (?(group)yes|no): two children */
};

enum pattern_greed { PATTERN_GREEDY, PATTERN_LAZY, PATTERN_POSSESSIVE };

/* 0 is no node: the first real one has index 1. */
struct pattern_node {
    uint8_t kind;      /* enum pattern_kind */
    uint8_t byte;      /* BYTE */
    uint8_t greed;     /* REPEAT: enum pattern_greed */
    bool caseless;     /* BYTE (letters only), BACKREF */
    bool behind;       /* LOOK */
    bool negative;     /* LOOK */
    uint32_t position; /* where it begins in the text, in bytes */
    uint32_t next;     /* the sibling to the right, or 0 */
    uint32_t child;    /* the first child, or 0 */
    union {
        uint32_t set;   /* CLASS: index into sets */
        uint32_t group; /* CAPTURE, BACKREF, CONDITIONAL */
        struct {
            uint32_t min, max; /* REPEAT; max may be PATTERN_UNLIMITED */
        };
    };
};

/* Bit c of byte c / 8 stands for byte c.  The dot is a class too.
 *
 * Subjects are ASCII; what is beyond matches as well as bytes allow.  A character from U+0080 on is
 * the bytes of its UTF-8 form one after the other, within [...] an alternative of those; a
 * complement and the dot hold all bytes from 0x80 on, one at a time.  Where case does not count,
 * such a character is an alternative of it and what it equals by casing.h; a letter of ASCII equals
 * its other case only, and a backreference the very bytes. */
struct pattern_set {
    uint8_t bits[32];
};

struct pattern {
    struct pattern_node *nodes; /* nodes[1 .. node_count - 1] */
    struct pattern_set *sets;   /* sets[0 .. set_count - 1] */
    uint32_t root;
    uint32_t node_count, set_count;
    uint32_t group_count; /* capturing groups; numbers are 1 .. group_count */
    uint32_t node_room, set_room;
    struct pattern_group *groups; /* the parser's own */
    uint32_t group_room;
};

void pattern_init(struct pattern *pattern);
void pattern_fini(struct pattern *pattern);
/* `flags` are those that re.compile would be given; a rule's own come from its text.  ERR_INVALID
 * fills *error with the position and what Python would say, or which of the maxima above is passed.
 * After any error the pattern may only be parsed into again, or ended. */
enum err pattern_parse(struct pattern *pattern, struct slice text, unsigned flags,
                       struct regex_error *error) MUST_CHECK;

static inline const struct pattern_node *
pattern_node(const struct pattern *pattern, uint32_t index)
{
    return &pattern->nodes[index];
}

static inline const struct pattern_set *
pattern_set(const struct pattern *pattern, const struct pattern_node *node)
{
    return &pattern->sets[node->set];
}

static inline bool
pattern_set_has(const struct pattern_set *set, unsigned char byte)
{
    return (set->bits[byte / 8] >> byte % 8 & 1) != 0;
}

#endif
