#include <string.h>

#include "index_layout.h"
#include "mem.h"
#include "rarity.h"

/* Of the filter, for each window; one in 400 of the windows that nobody asked for gets past it. */
#define FILTER_BITS 16
/* How often windows occur in the texts, by hash; a collision makes one look more frequent than it is. */
#define SKETCH_BITS_MIN 8
#define SKETCH_BITS_MAX 20
#define SKETCH_COUNT_MAX UINT16_MAX

struct plan {
    size_t texts_max;   /* for at most so many */
    struct {
        uint8_t width, stride;
    } levels[INDEX_LEVELS];
};

/* Wide windows are rarer, and many texts ask for rare ones; wide steps take long texts.  The last level takes any text.
 * Measured (bench/rules): these are the fastest for each size. */
static const struct plan plans[] = {
    {4000, {{5, 4}, {3, 2}, {2, 1}}},
    {SIZE_MAX, {{6, 3}, {3, 2}, {2, 1}}},
};

/* A text to be filed, in the block already. */
struct filing {
    uint32_t text;
    uint8_t len, level, offset;
};

struct build {
    struct index *index;
    const struct plan *plan;
    struct filing *filings;
    size_t count;
    uint16_t *sketch;
    unsigned sketch_bits;
    uint64_t width_mask[INDEX_LEVELS];
};

static unsigned
level_of(const struct plan *plan, size_t len)
{
    unsigned level = 0;
    while ((size_t)plan->levels[level].width + plan->levels[level].stride - 1 > len) {
        level++;
    }
    return level;
}

/* The hash of a window of a text in the block; there are always eight bytes to read. */
static uint64_t
window_hash(const struct build *build, const struct filing *filing, size_t offset)
{
    const char *text = index_text(build->index, filing->text).text.data;
    return index_hash(text + offset, build->width_mask[filing->level]);
}

/* --- which windows --- */

static unsigned
windows_of(const struct build *build, const struct filing *filing)
{
    return filing->len - build->plan->levels[filing->level].width + 1u;
}

static uint16_t *
count_of(const struct build *build, const struct filing *filing, size_t offset)
{
    return &build->sketch[window_hash(build, filing, offset) >> (64 - build->sketch_bits)];
}

static void
count_windows(struct build *build)
{
    for (size_t i = 0; i < build->count; i++) {
        const struct filing *filing = &build->filings[i];
        for (unsigned at = 0; at < windows_of(build, filing); at++) {
            uint16_t *seen = count_of(build, filing, at);
            *seen = (uint16_t)(*seen + (*seen < SKETCH_COUNT_MAX));
        }
    }
}

static int
bits_of(unsigned number)
{
    return number == 0 ? 0 : 31 - __builtin_clz(number);
}

/* How rare it is that a URL leads to this window, less the texts that it then leads to. */
static int
window_score(const struct build *build, const struct filing *filing, unsigned at)
{
    const char *text = index_text(build->index, filing->text).text.data;
    int rarity = 0;
    for (unsigned i = 1; i < build->plan->levels[filing->level].width; i++) {
        rarity += (int)rarity_of(text[at + i - 1], text[at + i]);
    }
    return rarity - bits_of(*count_of(build, filing, at)) * RARITY_BIT;
}

/* The first of the `stride` windows in a row that the text is filed under: the worst of them counts. */
static void
choose_windows(const struct build *build, struct filing *filing)
{
    unsigned stride = build->plan->levels[filing->level].stride, windows = windows_of(build, filing);
    int scores[LITERALS_TEXT_MAX], best = INT32_MIN;
    for (unsigned at = 0; at < windows; at++) {
        scores[at] = window_score(build, filing, at);
    }
    for (unsigned at = 0; at + stride <= windows; at++) {
        int worst = scores[at];
        for (unsigned i = 1; i < stride; i++) {
            worst = scores[at + i] < worst ? scores[at + i] : worst;
        }
        if (worst > best) {
            best = worst;
            filing->offset = (uint8_t)at;
        }
    }
}

/* --- the block --- */

static unsigned
log2_up(size_t number)
{
    unsigned bits = 0;
    while (((size_t)1 << bits) < number) {
        bits++;
    }
    return bits;
}

/* Takes the next `size` bytes of the block. */
static size_t
place(size_t *end, size_t size)
{
    size_t begin = *end;
    *end = (begin + size + 7) / 8 * 8;
    return begin;
}

static void
lay_out_level(struct index_level *level, size_t entries, size_t *end)
{
    if (entries == 0) {
        return;
    }
    /* At least 16 of each: shifting by 64 is undefined. */
    unsigned word_bits = log2_up(entries * FILTER_BITS / 64 + 16), bucket_bits = log2_up(entries + 16);
    level->filter_shift = (uint8_t)(64 - word_bits);
    level->bucket_shift = (uint8_t)(64 - bucket_bits);
    level->filter = place(end, sizeof(uint64_t) << word_bits);
    level->buckets = place(end, sizeof(uint32_t) * (((size_t)1 << bucket_bits) + 1));
    level->entries = place(end, sizeof(struct index_entry) * entries);
    level->entry_count = (uint32_t)entries;
}

static size_t
packed_set_size(const uint8_t *packed)
{
    const uint8_t *end = packed;
    for (unsigned left = literals_take_count(&end); left > 0; left--) {
        (void)literals_take(&end);
    }
    return (size_t)(end - packed);
}

struct sizes {
    size_t texts, bytes, items;
    size_t by_len[LITERALS_TEXT_MAX + 1];
};

static struct sizes
measure(const struct index_input *inputs, size_t count)
{
    struct sizes sizes = {.texts = 0};
    for (size_t i = 0; i < count; i++) {
        const uint8_t *packed = inputs[i].packed;
        for (unsigned left = literals_take_count(&packed); left > 0; left--) {
            struct slice text = literals_take(&packed);
            sizes.texts++;
            sizes.by_len[text.len]++;
            sizes.bytes += INDEX_TEXT_HEAD + text.len;
        }
        sizes.bytes += packed_set_size(packed);
        sizes.items = inputs[i].item >= sizes.items ? (size_t)inputs[i].item + 1 : sizes.items;
    }
    return sizes;
}

static enum err
create_block(struct build *build, const struct sizes *sizes, size_t *texts)
{
    struct index head = {.items = sizes->items};
    size_t entries[INDEX_LEVELS] = {0}, end = sizeof head;
    for (size_t len = LITERALS_TEXT_MIN; len <= LITERALS_TEXT_MAX; len++) {
        unsigned level = level_of(build->plan, len);
        entries[level] += sizes->by_len[len] * build->plan->levels[level].stride;
    }
    for (unsigned i = 0; i < INDEX_LEVELS; i++) {
        struct index_level *level = &head.levels[i];
        level->width = build->plan->levels[i].width;
        level->stride = build->plan->levels[i].stride;
        memset(&level->mask, 0xff, level->width);
        build->width_mask[i] = level->mask;
        lay_out_level(level, entries[i], &end);
    }
    /* Eight bytes may be read from the last of a text. */
    *texts = place(&end, sizes->bytes + 8);
    if (end > UINT32_MAX) {
        return ERR_LIMIT;
    }
    head.size = end;
    build->index = mem_zalloc(end);
    if (build->index == NULL) {
        return ERR_MEMORY;
    }
    *build->index = head;
    return ERR_OK;
}

/* The texts of all inputs into the block, and a filing for each. */
static void
copy_texts(struct build *build, const struct index_input *inputs, size_t count, size_t end)
{
    uint8_t *block = (uint8_t *)build->index;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *packed = inputs[i].packed, *second = packed + packed_set_size(packed);
        uint32_t second_at = (uint32_t)end;
        size_t second_size = packed_set_size(second);
        memcpy(block + end, second, second_size);
        end += second_size;
        for (unsigned left = literals_take_count(&packed); left > 0; left--) {
            struct slice text = literals_take(&packed);
            build->filings[build->count++] = (struct filing){
                .text = (uint32_t)end,
                .len = (uint8_t)text.len,
                .level = (uint8_t)level_of(build->plan, text.len),
            };
            memcpy(block + end, &inputs[i].item, 4);
            memcpy(block + end + 4, &second_at, 4);
            block[end + 8] = (uint8_t)text.len;
            memcpy(block + end + INDEX_TEXT_HEAD, text.data, text.len);
            end += INDEX_TEXT_HEAD + text.len;
        }
    }
}

/* Filter, and entries sorted by bucket: bucket[b + 1] counts, then ends, then begins those of b. */
static void
fill_level(struct build *build, unsigned number)
{
    const struct index_level *level = &build->index->levels[number];
    uint8_t *block = (uint8_t *)build->index;
    uint64_t *filter = (uint64_t *)(void *)(block + level->filter);
    uint32_t *buckets = (uint32_t *)(void *)(block + level->buckets);
    struct index_entry *entries = (struct index_entry *)(void *)(block + level->entries);
    size_t bucket_count = (size_t)1 << (64 - level->bucket_shift);
    for (size_t i = 0; i < build->count; i++) {
        const struct filing *filing = &build->filings[i];
        for (unsigned k = 0; filing->level == number && k < level->stride; k++) {
            uint64_t hash = window_hash(build, filing, filing->offset + k);
            filter[hash >> level->filter_shift] |= index_filter_bits(hash);
            buckets[hash >> level->bucket_shift]++;
        }
    }
    uint32_t end = 0;
    for (size_t i = 0; i <= bucket_count; i++) {
        end += buckets[i];
        buckets[i] = end;
    }
    for (size_t i = 0; i < build->count; i++) {
        const struct filing *filing = &build->filings[i];
        for (unsigned k = 0; filing->level == number && k < level->stride; k++) {
            uint64_t hash = window_hash(build, filing, filing->offset + k);
            entries[--buckets[hash >> level->bucket_shift]] = (struct index_entry){
                .text = filing->text,
                .tag = index_tag(hash),
                .offset = (uint8_t)(filing->offset + k),
            };
        }
    }
}

static const struct plan *
plan_for(size_t texts)
{
    const struct plan *plan = plans;
    while (texts > plan->texts_max) {
        plan++;
    }
    return plan;
}

enum err
index_build(const struct index_input *inputs, size_t count, struct index **out)
{
    struct sizes sizes = measure(inputs, count);
    struct build build = {.plan = plan_for(sizes.texts)};
    size_t texts;
    enum err err = create_block(&build, &sizes, &texts);
    if (err) {
        return err;
    }
    err = ERR_MEMORY;
    build.filings = mem_calloc(sizes.texts, sizeof *build.filings);
    build.sketch_bits = log2_up(sizes.bytes);
    build.sketch_bits = build.sketch_bits < SKETCH_BITS_MIN   ? SKETCH_BITS_MIN
                        : build.sketch_bits > SKETCH_BITS_MAX ? SKETCH_BITS_MAX
                                                              : build.sketch_bits;
    build.sketch = mem_calloc((size_t)1 << build.sketch_bits, sizeof *build.sketch);
    if (build.filings == NULL || build.sketch == NULL) {
        goto done;
    }
    copy_texts(&build, inputs, count, texts);
    count_windows(&build);
    for (size_t i = 0; i < build.count; i++) {
        choose_windows(&build, &build.filings[i]);
    }
    for (unsigned i = 0; i < INDEX_LEVELS; i++) {
        if (build.index->levels[i].entry_count > 0) {
            fill_level(&build, i);
        }
    }
    *out = build.index;
    build.index = NULL;
    err = ERR_OK;
done:
    mem_free(build.filings);
    mem_free(build.sketch);
    index_destroy(build.index);
    return err;
}
