#include "buf.h"

#include "harness.h"

static void
test_starts_empty(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, 100);
    CHECK(buf.data == NULL);
    CHECK_STRING(buf_string(&buf), "");
    CHECK(buf_slice(&buf).len == 0 && buf_slice(&buf).data != NULL);
    TRY(buf_append(&buf, NULL, 0));
    CHECK(buf.data == NULL);
    CHECK_INT(mem_asked(), 0);
}

static void
test_appends_of_each_kind(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, 100);
    TRY(buf_append(&buf, "a\0b", 3));
    TRY(buf_append_slice(&buf, SLICE_LITERAL("cd")));
    TRY(buf_append_string(&buf, "ef"));
    TRY(buf_append_char(&buf, 'g'));
    TRY(buf_append_format(&buf, "-%d-%s", 12, "h"));
    static const char wanted[] = "a\0bcdefg-12-h";
    CHECK_INT(buf.len, sizeof wanted - 1);
    CHECK(memcmp(buf.data, wanted, sizeof wanted) == 0);
    struct slice slice = buf_slice(&buf);
    CHECK(slice.data == buf.data && slice.len == buf.len);
}

static void
test_grows_a_byte_at_a_time(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, 5000);
    for (int i = 0; i < 5000; i++) {
        TRY(buf_append_char(&buf, (char)('a' + i % 26)));
    }
    CHECK_INT(strlen(buf_string(&buf)), 5000);
    CHECK(buf.data[0] == 'a' && buf.data[4999] == (char)('a' + 4999 % 26));
    CHECK_INT(buf.room, 5001);
    CHECK(mem_asked() < 12);
}

static void
test_limit_leaves_the_content(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, 4);
    TRY(buf_append_string(&buf, "abc"));
    CHECK(buf_append_string(&buf, "de") == ERR_LIMIT);
    CHECK(buf_append_format(&buf, "%s", "de") == ERR_LIMIT);
    CHECK(buf_append(&buf, "x", SIZE_MAX) == ERR_LIMIT);
    CHECK_STRING(buf_string(&buf), "abc");
    TRY(buf_append_char(&buf, 'd'));
    CHECK(buf_append_char(&buf, 'e') == ERR_LIMIT);
    CHECK_STRING(buf_string(&buf), "abcd");
    CHECK_INT(buf.room, 5);
}

static void
test_maximum_of_nothing(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, 0);
    TRY(buf_append_format(&buf, "%s", ""));
    CHECK(buf_append_char(&buf, 'a') == ERR_LIMIT);
    CHECK_STRING(buf_string(&buf), "");
}

static void
test_huge_maximum(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, SIZE_MAX - 1);
    TRY(buf_append_string(&buf, "abc"));
    CHECK_STRING(buf_string(&buf), "abc");
    CHECK(buf.room < 100);
}

static void
test_clear_keeps_the_room(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, 100);
    buf_clear(&buf);
    TRY(buf_append_string(&buf, "abc"));
    size_t room = buf.room;
    buf_clear(&buf);
    CHECK_STRING(buf_string(&buf), "");
    CHECK(buf.len == 0 && buf.room == room);
    TRY(buf_append_string(&buf, "de"));
    CHECK_STRING(buf_string(&buf), "de");
}

static void
free_string(char **text)
{
    mem_free(*text);
}

static void
test_take_gives_the_bytes_away(void)
{
    CLEANUP(buf_fini) struct buf buf;
    CLEANUP(free_string) char *taken = NULL;
    buf_init(&buf, 100);
    TRY(buf_append_string(&buf, "abc"));
    size_t len = 0;
    taken = buf_take(&buf, &len);
    REQUIRE(taken != NULL);
    CHECK_STRING(taken, "abc");
    CHECK_INT(len, 3);
    CHECK(buf.data == NULL && buf.len == 0 && buf.max == 100);
    TRY(buf_append_string(&buf, "again"));
    CHECK_STRING(buf_string(&buf), "again");
}

static void
test_take_of_nothing(void)
{
    CLEANUP(buf_fini) struct buf buf;
    CLEANUP(free_string) char *taken = NULL;
    buf_init(&buf, 0);
    taken = buf_take(&buf, NULL);
    REQUIRE(taken != NULL);
    CHECK_STRING(taken, "");
}

static void
test_out_of_memory_leaves_the_content(void)
{
    CLEANUP(buf_fini) struct buf buf;
    buf_init(&buf, 1000);
    char long_text[500];
    memset(long_text, 'x', sizeof long_text);
    TRY(buf_append_string(&buf, "abc"));
    mem_fail_at(1);
    CHECK(buf_append(&buf, long_text, sizeof long_text) == ERR_MEMORY);
    CHECK_STRING(buf_string(&buf), "abc");
    mem_fail_at(1);
    CHECK(buf_append_format(&buf, "%.500s", long_text) == ERR_MEMORY);
    CHECK_STRING(buf_string(&buf), "abc");
    TRY(buf_append(&buf, long_text, sizeof long_text));
    CHECK_INT(buf.len, 503);
}

static void
test_secret_can_be_used_again(void)
{
    struct buf buf;
    buf_init(&buf, 100);
    buf_fini_secret(&buf);
    TRY(buf_append_string(&buf, "Bearer abc"));
    buf_fini_secret(&buf);
    CHECK(buf.data == NULL && buf.len == 0 && buf.room == 0);
}

TESTS(TEST(starts_empty), TEST(appends_of_each_kind), TEST(grows_a_byte_at_a_time),
      TEST(limit_leaves_the_content), TEST(maximum_of_nothing), TEST(huge_maximum),
      TEST(clear_keeps_the_room), TEST(take_gives_the_bytes_away), TEST(take_of_nothing),
      TEST_WITHOUT_CHAOS(out_of_memory_leaves_the_content), TEST(secret_can_be_used_again))
