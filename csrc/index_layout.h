/* How an index lies in its block: what index_build.c writes and index.c reads.
 *
 * The block is struct index, then for each level its filter, buckets and entries, then the texts; all by offsets.
 *
 * Any thread. */
#ifndef FORWARDER_INDEX_LAYOUT_H
#define FORWARDER_INDEX_LAYOUT_H

#include <string.h>

#include "index.h"

#define INDEX_LEVELS 3

/* A text filed under one of its windows. */
struct index_entry {
    uint32_t text;          /* offset from the block's begin */
    uint32_t tag : 24;      /* bits of the hash that chose neither bucket nor filter word */
    uint32_t offset : 8;    /* of the window in the text */
};

/* The texts that are long enough for one width of window. */
struct index_level {
    uint64_t mask;          /* the first `width` bytes of a load */
    uint8_t width;
    uint8_t stride;         /* of the scan; each text has this many windows in a row, so that one is met */
    uint8_t bucket_shift;
    uint32_t filter_words;
    uint32_t entry_count;
    size_t filter;          /* offsets from the block's begin: of words, ... */
    size_t buckets;         /* ...of the first entry's number of each bucket, and one more, ... */
    size_t entries;         /* ...of entries, bucket by bucket */
};

struct index {
    size_t size;
    size_t items;           /* the highest number and one */
    struct index_level levels[INDEX_LEVELS];
};

/* In the block: item, offset of the packed second set, length, bytes. */
#define INDEX_TEXT_HEAD 9

struct index_text {
    uint32_t item, second;
    struct slice text;
};

static inline const uint8_t *
index_bytes(const struct index *index)
{
    return (const uint8_t *)index;
}

static inline const uint64_t *
index_filter(const struct index *index, const struct index_level *level)
{
    return (const uint64_t *)(const void *)(index_bytes(index) + level->filter);
}

static inline const uint32_t *
index_buckets(const struct index *index, const struct index_level *level)
{
    return (const uint32_t *)(const void *)(index_bytes(index) + level->buckets);
}

static inline const struct index_entry *
index_entries(const struct index *index, const struct index_level *level)
{
    return (const struct index_entry *)(const void *)(index_bytes(index) + level->entries);
}

static inline struct index_text
index_text(const struct index *index, uint32_t at)
{
    const uint8_t *head = index_bytes(index) + at;
    struct index_text text = {.text = {(const char *)head + INDEX_TEXT_HEAD, head[8]}};
    memcpy(&text.item, head, 4);
    memcpy(&text.second, head + 4, 4);
    return text;
}

/* Of the window that begins here; eight bytes are read.  Setting one bit in each byte folds letters of either case, and
 * a few other bytes, into one: the texts are compared in full later. */
static inline uint64_t
index_hash(const char *bytes, uint64_t mask)
{
    uint64_t window;
    memcpy(&window, bytes, sizeof window);
    return ((window | UINT64_C(0x2020202020202020)) & mask) * UINT64_C(0x9E3779B97F4A7C15);
}

/* A fraction of the words as large as that of the hash in all hashes: any number of them will do, and the fewer there
 * are, the less of the cache they take. */
static inline size_t
index_filter_word(uint64_t hash, uint32_t words)
{
    return (size_t)((hash >> 32) * words >> 32);
}

/* Three bits of the word. */
static inline uint64_t
index_filter_bits(uint64_t hash)
{
    return UINT64_C(1) << (hash >> 26 & 63) | UINT64_C(1) << (hash >> 32 & 63) | UINT64_C(1) << (hash >> 38 & 63);
}

static inline uint32_t
index_tag(uint64_t hash)
{
    return hash >> 16 & 0xffffff;
}

#endif
