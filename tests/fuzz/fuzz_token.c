/* A header from a client, read as Authorization, as Proxy-Authorization, as a setting and as a bare
 * token.  A token that is found may go into a header of ours: nothing in it can end the line. */
#include "fuzz.h"

#include "token.h"

static void
check_token(const struct token *token)
{
    INVARIANT(token->len > 0 && token->len <= TOKEN_MAX && strlen(token->text) == token->len);
    for (size_t i = 0; i < token->len; i++) {
        INVARIANT(token->text[i] > ' ' && token->text[i] < 0x7f && token->text[i] != ',');
    }
}

static void
check_form(enum err err, enum token_form form, struct token *token)
{
    INVARIANT(!err);
    INVARIANT((form == TOKEN_FOUND) == (token->text != NULL));
    if (form == TOKEN_FOUND) {
        check_token(token);
    }
    token_fini(token);
}

static void
read_header(struct slice header)
{
    struct token token = {NULL, 0};
    enum token_form form;
    enum err err = token_from_bearer(header, &token, &form);
    check_form(err, form, &token);
    err = token_from_proxy_authorization(header, &token, &form);
    check_form(err, form, &token);
    err = token_from_setting(header, &token);
    INVARIANT(err == ERR_OK || err == ERR_INVALID);
    if (!err) {
        check_token(&token);
        token_fini(&token);
    }
}

static void
read_claims(struct slice token)
{
    struct wire_id id;
    double exp;
    enum err err = token_claim(token, "user_id,sub,id", &id);
    INVARIANT(err == ERR_OK || err == ERR_MISSING);
    if (!err) {
        wire_id_fini(&id);
    }
    err = token_expiry(token, &exp);
    INVARIANT(err == ERR_OK || err == ERR_MISSING);
}

/* Each line is a token; afterwards a token has the user it was put in with, or none. */
static void
use_cache(struct slice rest)
{
    struct token_cache *cache;
    struct slice first = fuzz_take_line(&rest);
    struct wire_id id = {.kind = WIRE_ID_INTEGER, .integer = 1};
    INVARIANT(!token_cache_create(4, &cache));
    INVARIANT(!token_cache_put(cache, first, &id));
    while (rest.len > 0) {
        struct slice token = fuzz_take_line(&rest);
        bool is_first = token.len == first.len && memcmp(token.data, first.data, token.len) == 0;
        id.integer = is_first ? 1 : 2;
        const struct wire_id *found = token_cache_get(cache, token);
        INVARIANT(found == NULL || found->integer == id.integer);
        INVARIANT(!token_cache_put(cache, token, &id));
    }
    const struct wire_id *found = token_cache_get(cache, first);
    INVARIANT(found == NULL || found->integer == 1);
    token_cache_destroy(cache);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = {(const char *)data, size};
    read_header(text);
    read_claims(text);
    use_cache(text);
    return 0;
}
