#include "token.h"

#include "clock.h"
#include "harness.h"

static struct slice
text(const char *string)
{
    return (struct slice){string, strlen(string)};
}

struct header_case {
    const char *header;
    enum token_form form;
    const char *token; /* for TOKEN_FOUND */
};

typedef enum err
read_fn(struct slice header, struct token *out, enum token_form *form);

static void
check_headers(read_fn *read, const struct header_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CLEANUP(token_fini) struct token token = {NULL, 0};
        enum token_form form = TOKEN_NONE;
        TRY(read(text(cases[i].header), &token, &form));
        if (form != cases[i].form) {
            CHECK_STRING("wrong form", cases[i].header);
        }
        if (cases[i].form == TOKEN_FOUND) {
            CHECK_STRING(token.text, cases[i].token);
            CHECK_INT(token.len, strlen(cases[i].token));
        }
        else {
            CHECK(token.text == NULL && token.len == 0);
        }
    }
}

static void
test_bearer(void)
{
    static const struct header_case cases[] = {
        {"Bearer abc.def.ghi", TOKEN_FOUND, "abc.def.ghi"},
        {"bearer abc", TOKEN_FOUND, "abc"},
        {"BEARER   abc", TOKEN_FOUND, "abc"},
        {"  Bearer abc \t", TOKEN_FOUND, "abc"},
        {"Bearer aZ09-._~+/==", TOKEN_FOUND, "aZ09-._~+/=="},
        {"", TOKEN_NONE, NULL},
        {"   ", TOKEN_NONE, NULL},
        {"Basic bWU6YWJj", TOKEN_NONE, NULL},
        {"Digest username=\"me\"", TOKEN_NONE, NULL},
        {"BearerX abc", TOKEN_NONE, NULL},
        {"Bearer-2 abc", TOKEN_NONE, NULL},
        {"Bear", TOKEN_NONE, NULL},
        {"Bearer", TOKEN_MALFORMED, NULL},
        {"Bearer ", TOKEN_MALFORMED, NULL},
        {"Bearer ,", TOKEN_MALFORMED, NULL},
        {"Bearer a, Bearer b", TOKEN_MALFORMED, NULL},
        {"Bearer a b", TOKEN_MALFORMED, NULL},
        {"Bearer\tabc", TOKEN_MALFORMED, NULL},
        {"Bearer \tabc", TOKEN_MALFORMED, NULL},
        {"Bearer:abc", TOKEN_MALFORMED, NULL},
        {"Bearer/abc", TOKEN_MALFORMED, NULL},
        {"Bearer,abc", TOKEN_MALFORMED, NULL},
        {"Bearer a\x01", TOKEN_MALFORMED, NULL},
        {"Bearer a\nX-Evil: 1", TOKEN_MALFORMED, NULL},
        {"Bearer caf\xc3\xa9", TOKEN_MALFORMED, NULL},
        {"Bearer ==", TOKEN_MALFORMED, NULL},
        {"Bearer a=b", TOKEN_MALFORMED, NULL},
        {"Bearer \"abc\"", TOKEN_MALFORMED, NULL},
    };
    check_headers(token_from_bearer, cases, COUNT_OF(cases));
}

static void
test_bearer_with_a_nul(void)
{
    CLEANUP(token_fini) struct token token = {NULL, 0};
    enum token_form form = TOKEN_NONE;
    TRY(token_from_bearer(SLICE_LITERAL("Bearer a\0b"), &token, &form));
    CHECK(form == TOKEN_MALFORMED && token.text == NULL);
    TRY(token_from_bearer((struct slice){NULL, 0}, &token, &form));
    CHECK(form == TOKEN_NONE && token.text == NULL);
}

static void
test_longest_token(void)
{
    static char header[7 + TOKEN_MAX + 2];
    memset(header, 'a', sizeof header - 1);
    memcpy(header, "Bearer ", 7);
    for (size_t len = TOKEN_MAX; len <= TOKEN_MAX + 1; len++) {
        CLEANUP(token_fini) struct token token = {NULL, 0};
        enum token_form form = TOKEN_NONE;
        TRY(token_from_bearer((struct slice){header, 7 + len}, &token, &form));
        CHECK(form == (len == TOKEN_MAX ? TOKEN_FOUND : TOKEN_MALFORMED));
    }
}

static void
test_proxy_authorization(void)
{
    static const struct header_case cases[] = {
        {"", TOKEN_NONE, NULL},
        {"Bearer abc", TOKEN_FOUND, "abc"},
        {"Bearer a b", TOKEN_MALFORMED, NULL},
        {"Digest username=\"me\"", TOKEN_NONE, NULL},
        {"Negotiate YII=", TOKEN_NONE, NULL},
        {"Basic bWU6YWJj", TOKEN_FOUND, "abc"}, /* me:abc */
        {"basic   bWU6YWJj", TOKEN_FOUND, "abc"},
        {"Basic YWJjOg==", TOKEN_FOUND, "abc"},               /* abc: */
        {"Basic YWJjOg", TOKEN_FOUND, "abc"},                 /* the same without padding */
        {"Basic OmFiYw==", TOKEN_FOUND, "abc"},               /* :abc */
        {"Basic bWU6YS5iLWMuZF9l", TOKEN_FOUND, "a.b-c.d_e"}, /* me:a.b-c.d_e */
        {"Basic w6k6YWJj", TOKEN_FOUND, "abc"},               /* é:abc */
        {"Basic", TOKEN_MALFORMED, NULL},
        {"Basic ", TOKEN_MALFORMED, NULL},
        {"Basic bWU", TOKEN_MALFORMED, NULL},      /* me */
        {"Basic Og==", TOKEN_MALFORMED, NULL},     /* : */
        {"Basic bWU6YSBi", TOKEN_MALFORMED, NULL}, /* me:a b */
        {"Basic bWU6YTpi", TOKEN_MALFORMED, NULL}, /* me:a:b */
        {"Basic bWU6YQBi", TOKEN_MALFORMED, NULL}, /* me:a NUL b */
        {"Basic bWU6YQpi", TOKEN_MALFORMED, NULL}, /* me:a LF b */
        {"Basic YSBiOg==", TOKEN_MALFORMED, NULL}, /* a b: */
        {"Basic bWU6YWJj=", TOKEN_MALFORMED, NULL},
        {"Basic bWU6YWJj====", TOKEN_MALFORMED, NULL},
        {"Basic YWJjOg=", TOKEN_MALFORMED, NULL},
        {"Basic YWJjOg===", TOKEN_MALFORMED, NULL},
        {"Basic bWU6Y", TOKEN_MALFORMED, NULL},
        {"Basic bWU6YW-_", TOKEN_MALFORMED, NULL}, /* the alphabet of URLs */
        {"Basic bWU6 YWJj", TOKEN_MALFORMED, NULL},
        {"Basic bWU6*WJj", TOKEN_MALFORMED, NULL},
        {"Basic:bWU6YWJj", TOKEN_MALFORMED, NULL},
    };
    check_headers(token_from_proxy_authorization, cases, COUNT_OF(cases));
}

static void
test_overlong_basic(void)
{
    static const char begin[] = "Basic ", password[] = "OmFiYw=="; /* :abc */
    static char header[40000];
    CLEANUP(token_fini) struct token token = {NULL, 0};
    enum token_form form = TOKEN_NONE;
    int len = snprintf(header, sizeof header, "%s", begin);
    for (int i = 0; i < 5000; i++) {
        len += snprintf(header + len, sizeof header - (size_t)len, "dXV1"); /* uuu */
    }
    strcat(header, password);
    TRY(token_from_proxy_authorization(text(header), &token, &form));
    CHECK(form == TOKEN_MALFORMED);
    /* The same with a shorter name is fine. */
    strcpy(header + strlen(begin) + 400, password);
    TRY(token_from_proxy_authorization(text(header), &token, &form));
    CHECK(form == TOKEN_FOUND);
}

static void
test_setting(void)
{
    static const char *const cases[][2] = {
        {"abc.def.ghi", "abc.def.ghi"},
        {"Bearer abc", "abc"},
        {" bearer   abc\n", "abc"},
        {"BearerToken", "BearerToken"},
        {"", NULL},
        {"Bearer", NULL},
        {"Bearer ", NULL},
        {"a b", NULL},
        {"Basic bWU6YWJj", NULL},
        {"a\nb", NULL},
        {"\"abc\"", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        CLEANUP(token_fini) struct token token = {NULL, 0};
        enum err err = token_from_setting(text(cases[i][0]), &token);
        if (cases[i][1] == NULL) {
            CHECK(err == ERR_INVALID && token.text == NULL);
            continue;
        }
        TRY(err);
        CHECK_STRING(token.text, cases[i][1]);
    }
}

/* {"alg":"HS256"} . {"sub":"u-1","user_id":7,"exp":1700000000} . signature */
#define JWT "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1LTEiLCJ1c2VyX2lkIjo3LCJleHAiOjE3MDAwMDAwMDB9.c2ln"

static void
test_claim(void)
{
    CLEANUP(wire_id_fini) struct wire_id number = {.kind = WIRE_ID_NONE};
    CLEANUP(wire_id_fini) struct wire_id string = {.kind = WIRE_ID_NONE};
    struct wire_id none = {.kind = WIRE_ID_NONE};
    TRY(token_claim(text(JWT), "user_id,sub,id", &number));
    CHECK_INT(number.kind, WIRE_ID_INTEGER);
    CHECK_INT(number.integer, 7);
    TRY(token_claim(text(JWT), "sub,user_id", &string));
    CHECK_INT(string.kind, WIRE_ID_STRING);
    CHECK_STRING(string.string, "u-1");
    CHECK(token_claim(text(JWT), "id", &none) == ERR_MISSING);
}

/* {"name":"~~~???x"} has '-' and '_' in base64url. */
static void
test_claim_in_the_alphabet_of_urls(void)
{
    CLEANUP(wire_id_fini) struct wire_id id = {.kind = WIRE_ID_NONE};
    TRY(token_claim(text("e30.eyJuYW1lIjoifn5-Pz8_eCJ9.x"), "name", &id));
    CHECK_INT(id.kind, WIRE_ID_STRING);
    CHECK_STRING(id.string, "~~~???x");
}

static void
test_claim_of_what_is_no_jwt(void)
{
    static const char *const tokens[] = {
        "",
        "opaque",
        "a.b",
        ".",
        "..",
        "e30.e30.x.y", /* four parts */
        "e30.W10.x",   /* [] */
        "e30.e30=.x",  /* wrong padding */
        "e30.e.x",
        "e30.eyJuYW1lIjoifn5+Pz8/eCJ9.x", /* standard base64 */
        "e30.eyJpZCI6MSwiaWQiOjJ9.x",     /* {"id":1,"id":2} */
        "e30./w.x",
    };
    for (size_t i = 0; i < COUNT_OF(tokens); i++) {
        struct wire_id id = {.kind = WIRE_ID_NONE};
        double exp = -1;
        enum err err = token_claim(text(tokens[i]), "id,name", &id);
        CHECK(err == ERR_MISSING);
        err = token_expiry(text(tokens[i]), &exp);
        CHECK(err == ERR_MISSING && exp == -1);
    }
    struct wire_id id;
    CHECK(token_claim((struct slice){NULL, 0}, "id", &id) == ERR_MISSING);
}

static void
test_expiry(void)
{
    double exp = -1;
    TRY(token_expiry(text(JWT), &exp));
    CHECK(exp == 1700000000.0);
    /* {"exp":1700000000.5}, as time.time() makes them */
    TRY(token_expiry(text("e30.eyJleHAiOjE3MDAwMDAwMDAuNX0.x"), &exp));
    CHECK(exp == 1700000000.5);
    exp = -1;
    /* {"exp":"1700000000"}: a string is no date */
    enum err err = token_expiry(text("e30.eyJleHAiOiIxNzAwMDAwMDAwIn0.x"), &exp);
    CHECK(err == ERR_MISSING && exp == -1);
}

static void
destroy_cache(struct token_cache **cache)
{
    token_cache_destroy(*cache);
    clock_set_ms(-1);
}

static struct wire_id
user(int64_t id)
{
    return (struct wire_id){.kind = WIRE_ID_INTEGER, .integer = id};
}

static int64_t
cached(struct token_cache *cache, const char *token)
{
    const struct wire_id *id = token_cache_get(cache, text(token));
    return id == NULL ? -1 : id->integer;
}

static void
test_cache_remembers(void)
{
    CLEANUP(destroy_cache) struct token_cache *cache = NULL;
    struct wire_id seven = user(7), eight = user(8), none = {.kind = WIRE_ID_NONE};
    TRY(token_cache_create(10, &cache));
    CHECK_INT(cached(cache, "a"), -1);
    TRY(token_cache_put(cache, text("a"), &seven));
    TRY(token_cache_put(cache, text("ab"), &eight));
    CHECK_INT(cached(cache, "a"), 7);
    CHECK_INT(cached(cache, "ab"), 8);
    CHECK_INT(cached(cache, "b"), -1);
    TRY(token_cache_put(cache, text("a"), &eight));
    CHECK_INT(cached(cache, "a"), 8);
    token_cache_drop(cache, text("a"));
    token_cache_drop(cache, text("never there"));
    CHECK_INT(cached(cache, "a"), -1);
    CHECK_INT(cached(cache, "ab"), 8);
    TRY(token_cache_put(cache, text("ab"), &none));
    CHECK_INT(cached(cache, "ab"), -1);
}

static void
test_cache_copies(void)
{
    CLEANUP(destroy_cache) struct token_cache *cache = NULL;
    char token[] = "token", name[] = "name";
    struct wire_id id = {.kind = WIRE_ID_STRING, .string = name};
    TRY(token_cache_create(10, &cache));
    TRY(token_cache_put(cache, text(token), &id));
    memset(token, 'x', strlen(token));
    memset(name, 'x', strlen(name));
    CHECK(token_cache_get(cache, text(token)) == NULL);
    const struct wire_id *found = token_cache_get(cache, text("token"));
    REQUIRE(found != NULL);
    CHECK_STRING(found->string, "name");
}

/* With two buckets, most tokens share one: each must still get its own user. */
static void
test_cache_of_colliding_tokens(void)
{
    enum { COUNT = 200 };
    CLEANUP(destroy_cache) struct token_cache *cache = NULL;
    TRY(token_cache_create(2, &cache));
    for (int i = 0; i < COUNT; i++) {
        char token[20];
        struct wire_id id = user(i);
        snprintf(token, sizeof token, "token-%d", i);
        TRY(token_cache_put(cache, text(token), &id));
        CHECK_INT(cached(cache, token), i);
    }
    CHECK_INT(cached(cache, "token-197"), -1);
    CHECK_INT(cached(cache, "token-198"), 198);
    CHECK_INT(cached(cache, "token-199"), 199);
}

static void
test_cache_forgets_the_oldest(void)
{
    CLEANUP(destroy_cache) struct token_cache *cache = NULL;
    struct wire_id id = user(1);
    TRY(token_cache_create(3, &cache));
    TRY(token_cache_put(cache, text("a"), &id));
    TRY(token_cache_put(cache, text("b"), &id));
    TRY(token_cache_put(cache, text("c"), &id));
    TRY(token_cache_put(cache, text("a"), &id)); /* seen again: "b" is the oldest now */
    TRY(token_cache_put(cache, text("d"), &id));
    CHECK_INT(cached(cache, "b"), -1);
    CHECK_INT(cached(cache, "a"), 1);
    CHECK_INT(cached(cache, "c"), 1);
    CHECK_INT(cached(cache, "d"), 1);
}

static void
test_cache_without_room(void)
{
    CLEANUP(destroy_cache) struct token_cache *cache = NULL;
    struct wire_id id = user(1);
    TRY(token_cache_create(0, &cache));
    TRY(token_cache_put(cache, text("a"), &id));
    CHECK_INT(cached(cache, "a"), -1);
}

static void
test_cache_forgets_after_an_hour(void)
{
    CLEANUP(destroy_cache) struct token_cache *cache = NULL;
    struct wire_id id = user(1);
    clock_set_ms(1000);
    TRY(token_cache_create(3, &cache));
    TRY(token_cache_put(cache, text("a"), &id));
    clock_set_ms(1000 + 3600 * 1000 - 1);
    CHECK_INT(cached(cache, "a"), 1);
    clock_set_ms(1000 + 3600 * 1000);
    CHECK_INT(cached(cache, "a"), -1);
    clock_set_ms(1000);
    CHECK_INT(cached(cache, "a"), -1); /* gone, not hidden */
}

/* {"exp":NUMBER}, written in base64url without a library. */
static void
make_expiring(char out[100], int64_t exp)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char payload[60];
    int len = snprintf(payload, sizeof payload, "{\"exp\":%lld}", (long long)exp);
    while (len % 3 != 0) {
        payload[len++] = ' ';
    }
    size_t end = (size_t)snprintf(out, 100, "e30.");
    for (int i = 0; i < len; i += 3) {
        unsigned bits =
            (unsigned)payload[i] << 16 | (unsigned)payload[i + 1] << 8 | (unsigned)payload[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6) {
            out[end++] = alphabet[bits >> shift & 63];
        }
    }
    memcpy(out + end, ".x", 3);
}

static void
test_cache_obeys_the_expiry(void)
{
    CLEANUP(destroy_cache) struct token_cache *cache = NULL;
    char soon[100], over[100], later[100];
    struct wire_id id = user(1);
    int64_t now = (int64_t)clock_wall_seconds();
    make_expiring(soon, now + 100);
    make_expiring(over, now - 1);
    make_expiring(later, now + 1000000);
    clock_set_ms(5000);
    TRY(token_cache_create(3, &cache));
    TRY(token_cache_put(cache, text(soon), &id));
    TRY(token_cache_put(cache, text(over), &id));
    TRY(token_cache_put(cache, text(later), &id));
    CHECK_INT(cached(cache, soon), 1);
    CHECK_INT(cached(cache, over), -1);
    CHECK_INT(cached(cache, later), 1);
    clock_set_ms(5000 + 100 * 1000);
    CHECK_INT(cached(cache, soon), -1);
    CHECK_INT(cached(cache, later), 1);
    clock_set_ms(5000 + 3600 * 1000);
    CHECK_INT(cached(cache, later), -1);
}

TESTS(TEST(bearer), TEST(bearer_with_a_nul), TEST(longest_token), TEST(proxy_authorization),
      TEST(overlong_basic), TEST(setting), TEST(claim), TEST(claim_in_the_alphabet_of_urls),
      TEST(claim_of_what_is_no_jwt), TEST(expiry), TEST(cache_remembers), TEST(cache_copies),
      TEST(cache_of_colliding_tokens), TEST(cache_forgets_the_oldest), TEST(cache_without_room),
      TEST(cache_forgets_after_an_hour), TEST(cache_obeys_the_expiry))
