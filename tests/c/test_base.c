#include "base.h"

#include "harness.h"

static void
test_every_error_has_a_text_of_its_own(void)
{
    for (int i = ERR_OK; i <= ERR_CLOSED; i++) {
        const char *text = err_text((enum err)i);
        CHECK(text[0] >= 'a' && text[0] <= 'z');
        CHECK(strcmp(text, err_text((enum err)(ERR_CLOSED + 1))) != 0);
        for (int j = 0; j < i; j++) {
            CHECK(strcmp(text, err_text((enum err)j)) != 0);
        }
    }
}

static void
test_arithmetic_is_checked(void)
{
    size_t result = 0;
    CHECK(size_add(SIZE_MAX - 1, 1, &result) && result == SIZE_MAX);
    CHECK(!size_add(SIZE_MAX, 1, &result));
    CHECK(size_mul(SIZE_MAX / 3, 3, &result) && result == SIZE_MAX / 3 * 3);
    CHECK(!size_mul(SIZE_MAX / 2, 3, &result));
    CHECK(size_mul(0, SIZE_MAX, &result) && result == 0);
}

TESTS(TEST(every_error_has_a_text_of_its_own), TEST(arithmetic_is_checked))
