#include "index.h"

#include <string.h>

#include "index_layout.h"
#include "mem.h"

/* In one search: less than 1 ms, a hundred times what a long URL full of hits needs. */
#define LOOKED_AT_MAX (256 * 1024)
#define PENDING_MAX 32
/* In `found`: the item's texts occur, but not one of its second set. */
#define REFUSED UINT32_C(0x80000000)

void
index_destroy(struct index *index)
{
    mem_free(index);
}

size_t
index_size(const struct index *index)
{
    return index->size;
}

/* --- scratch --- */

void
index_scratch_init(struct index_scratch *scratch)
{
    *scratch = (struct index_scratch){.room = 0};
}

void
index_scratch_fini(struct index_scratch *scratch)
{
    mem_free(scratch->seen);
    mem_free(scratch->found);
    index_scratch_init(scratch);
}

static enum err
make_room(struct index_scratch *scratch, size_t items)
{
    if (items <= scratch->room) {
        return ERR_OK;
    }
    struct index_scratch larger = {
        .room = items,
        .seen = mem_calloc(items / 64 + 1, sizeof *larger.seen),
        .found = mem_calloc(items, sizeof *larger.found),
    };
    if (larger.seen == NULL || larger.found == NULL) {
        index_scratch_fini(&larger);
        return ERR_MEMORY;
    }
    index_scratch_fini(scratch);
    *scratch = larger;
    return ERR_OK;
}

static bool
is_seen(const struct index_scratch *scratch, uint32_t item)
{
    return (scratch->seen[item / 64] >> item % 64 & 1) != 0;
}

static void
add_found(struct index_scratch *scratch, uint32_t item, bool refused)
{
    scratch->seen[item / 64] |= UINT64_C(1) << item % 64;
    scratch->found[scratch->count++] = refused ? item | REFUSED : item;
}

/* --- what the filter lets pass --- */

static bool
equals_caseless(const char *subject, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)subject[i];
        c = (unsigned char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
        if (c != (unsigned char)text[i]) {
            return false;
        }
    }
    return true;
}

static bool
holds_caseless(struct slice subject, struct slice text)
{
    for (size_t at = 0; at + text.len <= subject.len; at++) {
        if (equals_caseless(subject.data + at, text.data, text.len)) {
            return true;
        }
    }
    return false;
}

/* An empty set asks for nothing. */
static bool
holds_one_of(struct slice subject, const uint8_t *packed, struct index_scratch *scratch)
{
    unsigned count = literals_take_count(&packed);
    bool holds = count == 0;
    for (; count > 0 && !holds; count--) {
        scratch->looked_at += subject.len / 8;
        holds = holds_caseless(subject, literals_take(&packed));
    }
    return holds;
}

/* A window of the subject has this hash: do texts that are filed under it stand around it? */
static void
look_up(const struct index *index, const struct index_level *level, uint64_t hash,
        struct slice subject, size_t at, struct index_scratch *scratch)
{
    const uint32_t *bucket = index_buckets(index, level) + (hash >> level->bucket_shift);
    const struct index_entry *entries = index_entries(index, level);
    for (uint32_t i = bucket[0]; i < bucket[1] && scratch->looked_at <= LOOKED_AT_MAX; i++) {
        scratch->looked_at++;
        if (entries[i].tag != index_tag(hash)) {
            continue;
        }
        struct index_text text = index_text(index, entries[i].text);
        size_t offset = entries[i].offset;
        if (at < offset || subject.len - (at - offset) < text.text.len || is_seen(scratch, text.item)
            || !equals_caseless(subject.data + at - offset, text.text.data, text.text.len)) {
            continue;
        }
        bool refused = !holds_one_of(subject, index_bytes(index) + text.second, scratch);
        add_found(scratch, text.item, refused);
    }
}

/* --- the scan --- */

/* Windows that the filter has let pass; each will miss the cache, so they are looked up together. */
struct pending {
    size_t count;
    struct {
        uint64_t hash;
        size_t at;
    } windows[PENDING_MAX];
};

static void
look_up_pending(const struct index *index, const struct index_level *level, struct slice subject,
                struct pending *pending, struct index_scratch *scratch)
{
    const uint32_t *buckets = index_buckets(index, level);
    const struct index_entry *entries = index_entries(index, level);
    for (size_t i = 0; i < pending->count; i++) {
        __builtin_prefetch(&entries[buckets[pending->windows[i].hash >> level->bucket_shift]]);
    }
    for (size_t i = 0; i < pending->count; i++) {
        look_up(index, level, pending->windows[i].hash, subject, pending->windows[i].at, scratch);
    }
    pending->count = 0;
}

static void
add_pending(const struct index *index, const struct index_level *level, uint64_t hash,
            struct slice subject, size_t at, struct pending *pending, struct index_scratch *scratch)
{
    __builtin_prefetch(&index_buckets(index, level)[hash >> level->bucket_shift]);
    pending->windows[pending->count].hash = hash;
    pending->windows[pending->count++].at = at;
    if (pending->count == PENDING_MAX) {
        look_up_pending(index, level, subject, pending, scratch);
    }
}

static void
scan(const struct index *index, const struct index_level *level, struct slice subject,
     struct index_scratch *scratch)
{
    const uint64_t *filter = index_filter(index, level), mask = level->mask;
    const uint32_t words = level->filter_words;
    const unsigned stride = level->stride;
    struct pending pending;
    size_t at = 0;
    pending.count = 0;
    for (; at + 8 <= subject.len; at += stride) {
        uint64_t hash = index_hash(subject.data + at, mask), bits = index_filter_bits(hash);
        if (__builtin_expect((filter[index_filter_word(hash, words)] & bits) == bits, 0)) {
            add_pending(index, level, hash, subject, at, &pending, scratch);
        }
    }
    /* What is left is shorter than the load. */
    for (; at + level->width <= subject.len; at += stride) {
        char tail[8] = "";
        memcpy(tail, subject.data + at, subject.len - at);
        uint64_t hash = index_hash(tail, mask), bits = index_filter_bits(hash);
        if ((filter[index_filter_word(hash, words)] & bits) == bits) {
            add_pending(index, level, hash, subject, at, &pending, scratch);
        }
    }
    look_up_pending(index, level, subject, &pending, scratch);
}

/* Shell's, with Ciura's gaps: the arrays are short, and nothing is allocated. */
static void
sort(uint32_t *items, size_t count)
{
    static const size_t gaps[] = {701 * 9, 701 * 3, 701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t g = 0; g < COUNT_OF(gaps); g++) {
        for (size_t i = gaps[g]; i < count; i++) {
            uint32_t item = items[i];
            size_t place = i;
            for (; place >= gaps[g] && items[place - gaps[g]] > item; place -= gaps[g]) {
                items[place] = items[place - gaps[g]];
            }
            items[place] = item;
        }
    }
}

/* Leaves the items that were not refused, sorted, and `seen` clear. */
static void
settle(struct index_scratch *scratch)
{
    size_t kept = 0;
    for (size_t i = 0; i < scratch->count; i++) {
        uint32_t item = scratch->found[i] & ~REFUSED;
        scratch->seen[item / 64] = 0;
        if (scratch->found[i] == item) {
            scratch->found[kept++] = item;
        }
    }
    scratch->count = kept;
    sort(scratch->found, kept);
}

enum err
index_find(const struct index *index, struct slice subject, struct index_scratch *scratch,
           const uint32_t **items, size_t *count)
{
    enum err err = make_room(scratch, index->items);
    if (err) {
        return err;
    }
    scratch->count = 0;
    scratch->looked_at = 0;
    for (size_t i = 0; i < INDEX_LEVELS; i++) {
        if (index->levels[i].entry_count > 0) {
            scan(index, &index->levels[i], subject, scratch);
        }
    }
    bool too_many = scratch->looked_at > LOOKED_AT_MAX;
    settle(scratch);
    if (too_many) {
        return ERR_LIMIT;
    }
    *items = scratch->found;
    *count = scratch->count;
    return ERR_OK;
}
