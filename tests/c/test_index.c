#include "index.h"

#include <ctype.h>

#include "harness.h"

/* --- what an index is made of --- */

enum { TEXTS_MAX = 6000 };

/* Items of one text each, and perhaps one more that must be there as well. */
struct items {
    size_t count;
    struct literals literals[TEXTS_MAX];
    uint8_t packed[TEXTS_MAX][200];
    struct index_input inputs[TEXTS_MAX];
};

static struct items items; /* too large for the stack */

static void
add_text(struct literal_set *set, const char *text)
{
    set->len[set->count] = (uint8_t)strlen(text);
    memcpy(set->text[set->count++], text, strlen(text));
}

/* Texts of one set are separated by blanks. */
static void
add_item(const char *best, const char *second)
{
    const char *const texts[] = {best, second};
    struct literals *literals = &items.literals[items.count];
    struct literal_set *const sets[] = {&literals->best, &literals->second};
    for (size_t i = 0; i < 2; i++) {
        char copy[200], *rest = copy;
        snprintf(copy, sizeof copy, "%s", texts[i]);
        sets[i]->count = 0;
        for (char *text; (text = strsep(&rest, " ")) != NULL;) {
            if (text[0] != '\0') {
                add_text(sets[i], text);
            }
        }
    }
    uint8_t packed[LITERALS_PACKED_MAX];
    size_t size = literals_pack(literals, packed);
    memcpy(items.packed[items.count], packed, size);
    items.inputs[items.count] = (struct index_input){(uint32_t)items.count, items.packed[items.count]};
    items.count++;
}

static void
destroy_index(struct index **index)
{
    index_destroy(*index);
}

#define INDEX(name) CLEANUP(destroy_index) struct index *name = NULL
#define SCRATCH(name)                                                                              \
    CLEANUP(index_scratch_fini) struct index_scratch name;                                         \
    index_scratch_init(&name)

/* --- what must be found --- */

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
    bool found = false;
    for (unsigned i = 0; i < set->count; i++) {
        found = found || holds(subject, set->text[i], set->len[i]);
    }
    return found;
}

/* Compares with a search for each text, and returns how many items there were. */
static enum err
check_subject(const struct index *index, const char *text, struct index_scratch *scratch, size_t *found)
{
    /* A copy of its own size, so that a byte read beyond it is seen. */
    char *copy = mem_copy(text, strlen(text));
    if (copy == NULL) {
        return ERR_MEMORY;
    }
    struct slice subject = {copy, strlen(text)};
    const uint32_t *numbers;
    size_t count, at = 0;
    enum err err = index_find(index, subject, scratch, &numbers, &count);
    for (size_t i = 0; !err && i < items.count; i++) {
        const struct literals *literals = &items.literals[i];
        bool wanted = holds_one_of(subject, &literals->best)
                      && (literals->second.count == 0 || holds_one_of(subject, &literals->second));
        bool got = at < count && numbers[at] == i;
        CHECK(got == wanted);
        at += got;
    }
    CHECK(err || at == count);
    *found = at;
    mem_free(copy);
    return err;
}

/* --- tests --- */

static void
test_finds_what_is_there(void)
{
    static const struct {
        const char *subject;
        size_t found;
    } cases[] = {
        {"", 0},
        {"e", 0},
        {"evil.test", 1},
        {"https://www.EVIL.Test/", 1},
        {"xevil.testx", 1},
        {"https://evil.tes", 0},
        {"vil.test", 0},
        {"ab", 1},
        {"https://x.ab/", 1},
        {"aB cd", 2},
        {"cde", 2},
        {"one and two", 1},
        {"TWO and one", 1},
        {"one and three", 1},
        {"one", 0},
        {"two three", 0},
        {"alpha", 1},
        {"beta", 1},
        {"alphabeta", 2},
        {"evil.test ab cd cde one two alpha", 6},
        /* what folds to the same key but is not the same text */
        {"EVIL\x0etest", 0},
        {"a\x02", 0},
        {"@B", 0},
    };
    INDEX(index);
    SCRATCH(scratch);
    items.count = 0;
    add_item("evil.test", "");
    add_item("ab", "");
    add_item("cd", "");
    add_item("cde", "");
    add_item("one", "two three");
    add_item("alpha beta", "");
    TRY(index_build(items.inputs, items.count, &index));
    CHECK(index_size(index) > 0);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t found;
        TRY(check_subject(index, cases[i].subject, &scratch, &found));
        CHECK_INT(found, cases[i].found);
    }
}

/* Whatever the offset of the text in the subject, and whatever its length. */
static void
test_every_length_and_place(void)
{
    static const char alphabet[] = "qzxjkvwpymfb0123-./aeiounrstldchgqzxjkvwpymfb01";
    SCRATCH(scratch);
    for (size_t len = LITERALS_TEXT_MIN; len <= LITERALS_TEXT_MAX; len++) {
        INDEX(index);
        char text[LITERALS_TEXT_MAX + 1], subject[200];
        snprintf(text, sizeof text, "%.*s", (int)len, alphabet);
        items.count = 0;
        add_item(text, "");
        TRY(index_build(items.inputs, items.count, &index));
        for (int before = 0; before < 10; before++) {
            for (int after = 0; after < 10; after++) {
                size_t found;
                snprintf(subject, sizeof subject, "%.*s%s%.*s", before, "#########", text, after, "~~~~~~~~~~");
                TRY(check_subject(index, subject, &scratch, &found));
                CHECK_INT(found, 1);
            }
        }
    }
}

static unsigned
next_random(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

static void
make_text(uint32_t *state, char *out, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        out[i] = "abcde./-"[next_random(state) % 8];
    }
    out[len] = '\0';
}

/* Few letters and many texts, so that windows, buckets and whole texts coincide; with each plan. */
static void
test_agrees_with_plain_search(void)
{
    static const size_t counts[] = {1, 20, 300, TEXTS_MAX};
    SCRATCH(scratch);
    uint32_t state = 1;
    size_t total = 0;
    for (size_t c = 0; c < COUNT_OF(counts); c++) {
        INDEX(index);
        items.count = 0;
        while (items.count < counts[c]) {
            char best[24], second[8] = "";
            make_text(&state, best, 2 + next_random(&state) % 20);
            make_text(&state, second, items.count % 5 == 0 ? 2 + next_random(&state) % 3 : 0);
            add_item(best, second);
        }
        TRY(index_build(items.inputs, items.count, &index));
        for (int i = 0; i < 40; i++) {
            char subject[120];
            size_t found;
            make_text(&state, subject, next_random(&state) % (sizeof subject - 1));
            TRY(check_subject(index, subject, &scratch, &found));
            total += found;
        }
    }
    CHECK(total > 1000);
}

/* Numbers of items need not be without gaps, and a scratch serves indexes of any size. */
static void
test_numbers(void)
{
    INDEX(large);
    INDEX(small);
    SCRATCH(scratch);
    const uint32_t *numbers;
    size_t count;
    items.count = 0;
    add_item("evil", "");
    add_item("nasty", "");
    items.inputs[0].item = 70000;
    items.inputs[1].item = 3;
    TRY(index_build(items.inputs, 2, &large));
    TRY(index_build(items.inputs + 1, 1, &small));
    for (int i = 0; i < 2; i++) {
        TRY(index_find(small, SLICE_LITERAL("evil nasty nasty"), &scratch, &numbers, &count));
        CHECK_INT(count, 1);
        TRY(index_find(large, SLICE_LITERAL("nasty evil nasty evil"), &scratch, &numbers, &count));
        REQUIRE(count == 2);
        CHECK_INT(numbers[0], 3);
        CHECK_INT(numbers[1], 70000);
    }
}

/* A window that thousands of texts share, over and over: refused, and soon. */
static void
test_gives_up_on_a_flood(void)
{
    INDEX(index);
    SCRATCH(scratch);
    static char subject[64 * 1024];
    const uint32_t *numbers;
    size_t count;
    items.count = 0;
    for (int i = 0; i < 5000; i++) {
        char second[20];
        snprintf(second, sizeof second, "n%d", i);
        add_item("zqzq", second);
    }
    TRY(index_build(items.inputs, items.count, &index));
    for (size_t i = 0; i < sizeof subject; i++) {
        subject[i] = "zq"[i % 2];
    }
    double since = harness_seconds();
    enum err err = index_find(index, (struct slice){subject, sizeof subject}, &scratch, &numbers, &count);
    CHECK(err == ERR_LIMIT);
    CHECK(harness_seconds() - since < 1);
    TRY(index_find(index, SLICE_LITERAL("n"), &scratch, &numbers, &count));
    CHECK_INT(count, 0);
}

TESTS(TEST(finds_what_is_there), TEST(every_length_and_place), TEST_WITHOUT_CHAOS(agrees_with_plain_search),
      TEST(numbers), TEST(gives_up_on_a_flood))
