/* An index and a subject: each line up to an empty one is an item, "text text>second second"; the rest is the subject.
 * What is found is what a plain search for each text finds. */
#include "fuzz.h"

#include <ctype.h>

#include "index.h"

#define ITEMS_MAX 300

struct item {
    struct literals literals;
    uint8_t packed[LITERALS_PACKED_MAX];
};

static struct item items[ITEMS_MAX];
static struct index_input inputs[ITEMS_MAX];

static void
add_text(struct literal_set *set, const char *text, size_t len)
{
    if (len < LITERALS_TEXT_MIN || len > LITERALS_TEXT_MAX || set->count == LITERALS_SET_MAX) {
        return;
    }
    for (size_t i = 0; i < len; i++) {
        set->text[set->count][i] = (char)tolower((unsigned char)text[i] & 0x7f);
    }
    set->len[set->count++] = (uint8_t)len;
}

static bool
add_item(struct slice line, size_t number)
{
    struct literals *literals = &items[number].literals;
    struct literal_set *set = &literals->best;
    size_t begin = 0;
    literals->best.count = literals->second.count = 0;
    for (size_t i = 0; i <= line.len; i++) {
        if (i < line.len && line.data[i] != ' ' && line.data[i] != '>') {
            continue;
        }
        add_text(set, line.data + begin, i - begin);
        set = i < line.len && line.data[i] == '>' ? &literals->second : set;
        begin = i + 1;
    }
    literals_pack(literals, items[number].packed);
    inputs[number] = (struct index_input){(uint32_t)number, items[number].packed};
    return literals->best.count > 0;
}

static bool
holds(struct slice subject, const char *text, size_t len)
{
    for (size_t at = 0; at + len <= subject.len; at++) {
        size_t i = 0;
        while (i < len && tolower((unsigned char)subject.data[at + i]) == text[i]) {
            i++;
        }
        if (i == len) {
            return true;
        }
    }
    return false;
}

static bool
holds_one_of(struct slice subject, const struct literal_set *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (holds(subject, set->text[i], set->len[i])) {
            return true;
        }
    }
    return set->count == 0;
}

static void
check(struct slice subject, size_t count)
{
    struct index *index;
    struct index_scratch scratch;
    const uint32_t *found;
    size_t found_count, at = 0;
    INVARIANT(!index_build(inputs, count, &index));
    index_scratch_init(&scratch);
    if (!index_find(index, subject, &scratch, &found, &found_count)) {
        for (size_t i = 0; i < count; i++) {
            const struct literals *literals = &items[i].literals;
            bool wanted = holds_one_of(subject, &literals->best) && holds_one_of(subject, &literals->second);
            bool got = at < found_count && found[at] == i;
            INVARIANT(got == wanted);
            at += got;
        }
        INVARIANT(at == found_count);
    }
    index_scratch_fini(&scratch);
    index_destroy(index);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest = {(const char *)data, size};
    size_t count = 0;
    while (rest.len > 0 && count < ITEMS_MAX) {
        struct slice line = fuzz_take_line(&rest);
        if (line.len == 0) {
            break;
        }
        count += add_item(line, count);
    }
    if (count > 0) {
        check(rest, count);
    }
    return 0;
}
