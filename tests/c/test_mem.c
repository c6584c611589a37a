#include "mem.h"

#include <fcntl.h>

#include "harness.h"

static void
free_block(void *pointer)
{
    mem_free(*(void **)pointer);
}

static void
test_counts_live_blocks(void)
{
    CLEANUP(free_block) char *a = NULL;
    CLEANUP(free_block) char *b = NULL;
    size_t before = mem_live();
    a = mem_alloc(10);
    REQUIRE(a != NULL);
    b = mem_zalloc(10);
    REQUIRE(b != NULL);
    CHECK_INT(mem_live() - before, 2);
    mem_free(a);
    a = NULL;
    mem_free(NULL);
    CHECK_INT(mem_live() - before, 1);
}

static void
test_zero_sizes_give_blocks(void)
{
    CLEANUP(free_block) char *a = NULL;
    CLEANUP(free_block) char *b = NULL;
    CLEANUP(free_block) char *c = NULL;
    a = mem_alloc(0);
    REQUIRE(a != NULL);
    b = mem_calloc(0, 8);
    REQUIRE(b != NULL && b != a);
    c = mem_realloc(NULL, 0);
    REQUIRE(c != NULL);
    char *shrunk = mem_realloc(c, 0);
    REQUIRE(shrunk != NULL);
    c = shrunk;
}

static void
test_zeroes(void)
{
    static const char zeros[64];
    CLEANUP(free_block) char *a = NULL;
    CLEANUP(free_block) char *b = NULL;
    a = mem_zalloc(sizeof zeros);
    REQUIRE(a != NULL);
    b = mem_calloc(8, sizeof zeros / 8);
    REQUIRE(b != NULL);
    CHECK(memcmp(a, zeros, sizeof zeros) == 0);
    CHECK(memcmp(b, zeros, sizeof zeros) == 0);
}

static void
test_overflow_is_out_of_memory(void)
{
    size_t before = mem_live();
    CHECK(mem_calloc(SIZE_MAX / 2, 3) == NULL);
    CHECK(mem_copy("", SIZE_MAX) == NULL);
    CHECK_INT(mem_live(), before);
}

static void
test_copies_are_terminated(void)
{
    CLEANUP(free_block) char *bytes = NULL;
    CLEANUP(free_block) char *text = NULL;
    CLEANUP(free_block) char *nothing = NULL;
    bytes = mem_copy("abcdef", 3);
    REQUIRE(bytes != NULL);
    text = mem_string("ghi");
    REQUIRE(text != NULL);
    nothing = mem_copy(NULL, 0);
    REQUIRE(nothing != NULL);
    CHECK_STRING(bytes, "abc");
    CHECK_STRING(text, "ghi");
    CHECK_STRING(nothing, "");
}

static void
test_realloc_keeps_content_and_count(void)
{
    CLEANUP(free_block) char *block = NULL;
    block = mem_string("abc");
    REQUIRE(block != NULL);
    size_t before = mem_live();
    char *grown = mem_realloc(block, 10000);
    CHECK_STRING(grown != NULL ? grown : block, "abc");
    REQUIRE(grown != NULL);
    block = grown;
    CHECK_INT(mem_live(), before);
}

static void
test_fails_the_nth_once(void)
{
    CLEANUP(free_block) char *a = NULL;
    CLEANUP(free_block) char *b = NULL;
    mem_fail_at(2);
    a = mem_alloc(1);
    REQUIRE(a != NULL);
    size_t before = mem_live();
    CHECK(mem_realloc(a, 100) == NULL);
    CHECK_INT(mem_live(), before);
    b = mem_string("third");
    REQUIRE(b != NULL);
    CHECK_INT(mem_asked(), 3);
    mem_fail_at(0);
    CHECK_INT(mem_asked(), 0);
}

static void
test_each_kind_can_fail(void)
{
    CLEANUP(free_block) char *block = NULL;
    mem_fail_at(1);
    CHECK(mem_alloc(1) == NULL);
    mem_fail_at(1);
    CHECK(mem_zalloc(1) == NULL);
    mem_fail_at(1);
    CHECK(mem_calloc(1, 1) == NULL);
    mem_fail_at(1);
    CHECK(mem_copy("a", 1) == NULL);
    mem_fail_at(1);
    CHECK(mem_string("a") == NULL);
    mem_fail_at(1);
    block = mem_realloc(NULL, 1);
    CHECK(block == NULL);
}

static void
test_secret_counts_as_freed(void)
{
    size_t before = mem_live();
    char *secret = mem_string("token");
    REQUIRE(secret != NULL);
    mem_free_secret(secret, 5);
    mem_free_secret(NULL, 5);
    CHECK_INT(mem_live(), before);
}

#ifdef __linux__
#define SECRET_LEN 200

/* The kernel reads freed memory for us: neither the compiler nor a sanitizer may object. */
static bool
read_own_memory(uintptr_t address, char *out, size_t len)
{
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : pread(fd, out, len, (off_t)address);
    if (fd >= 0) {
        close(fd);
    }
    return got == (ssize_t)len;
}

static void
test_secret_is_overwritten(void)
{
    char seen[SECRET_LEN];
    char *secret = mem_alloc(SECRET_LEN);
    REQUIRE(secret != NULL);
    memset(secret, 'S', SECRET_LEN);
    uintptr_t address = (uintptr_t)secret;
    bool before = read_own_memory(address, seen, SECRET_LEN) && seen[SECRET_LEN - 1] == 'S';
    mem_free_secret(secret, SECRET_LEN);
    CHECK(before);
    REQUIRE(read_own_memory(address, seen, SECRET_LEN));
    CHECK(memmem(seen, SECRET_LEN, "SSSS", 4) == NULL);
}
#define LINUX_TESTS , TEST(secret_is_overwritten)
#else
#define LINUX_TESTS
#endif

TESTS(TEST(counts_live_blocks), TEST(zero_sizes_give_blocks), TEST(zeroes),
      TEST(overflow_is_out_of_memory), TEST(copies_are_terminated),
      TEST(realloc_keeps_content_and_count), TEST_WITHOUT_CHAOS(fails_the_nth_once),
      TEST_WITHOUT_CHAOS(each_kind_can_fail), TEST(secret_counts_as_freed) LINUX_TESTS)
