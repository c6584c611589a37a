/* Which of many texts occur in a subject, whatever their number: a q-gram index.
 *
 * Each text is filed under the windows of a few bytes that URLs and the other texts hold least often; a scan hashes the
 * subject's windows and looks further only where a Bloom filter knows the hash.  An index is one block without pointers,
 * immutable once built, and belongs to whoever called index_build; the scratch is the caller's memory.
 *
 * Any thread; a scratch belongs to one at a time. */
#ifndef FORWARDER_INDEX_H
#define FORWARDER_INDEX_H

#include "literals.h"

struct index;

/* An item is found in a subject that holds a text of both sets, in either case. */
struct index_input {
    uint32_t item;           /* its number, at most INDEX_ITEM_MAX, once in the inputs */
    const uint8_t *packed;   /* by literals_pack, the first set not empty; borrowed during the call */
};

#define INDEX_ITEM_MAX (INT32_MAX - 1)

/* ERR_LIMIT: more than 4 GiB. */
enum err index_build(const struct index_input *inputs, size_t count, struct index **out) MUST_CHECK;
void index_destroy(struct index *index);
/* Of the block, in bytes. */
size_t index_size(const struct index *index);

struct index_scratch {
    size_t room;           /* items */
    uint64_t *seen;        /* a bit for each; all clear between searches */
    uint32_t *found;
    size_t count;
    uint64_t looked_at;    /* texts, in this search */
};

void index_scratch_init(struct index_scratch *scratch);
void index_scratch_fini(struct index_scratch *scratch);

/* The items in ascending order, in the scratch until the next call.  ERR_LIMIT: a subject made to hit the same windows
 * over and over; nothing is known about it then. */
enum err index_find(const struct index *index, struct slice subject, struct index_scratch *scratch,
                    const uint32_t **items, size_t *count) MUST_CHECK;

#endif
