/* User tokens: how they arrive in headers, and whom the backend took them for.
 *
 * A struct token owns its text and overwrites it when it goes.  The cache owns copies of what it
 * was given.
 *
 * Any thread; the cache: one thread (the loop). */
#ifndef FORWARDER_TOKEN_H
#define FORWARDER_TOKEN_H

#include "wire.h"

#define TOKEN_MAX 8192

/* What a header held. */
enum token_form {
    TOKEN_NONE, /* no header, or a scheme that is not ours */
    TOKEN_FOUND,
    TOKEN_MALFORMED, /* our scheme, but not a token: 401 */
};

struct token {
    char *text; /* the bare JWT, terminated; NULL when there is none */
    size_t len;
};

void
token_fini(struct token *token);
enum err
token_copy(struct slice text, struct token *out) MUST_CHECK;

/* `Bearer JWT`.  Any other scheme is TOKEN_NONE.  ERR_MEMORY apart, *form says what was found. */
enum err
token_from_bearer(struct slice header, struct token *out, enum token_form *form) MUST_CHECK;
/* `Bearer JWT`, or `Basic` with the JWT as password (or, where the password is empty, as user
 * name). */
enum err
token_from_proxy_authorization(struct slice header, struct token *out,
                               enum token_form *form) MUST_CHECK;
/* A JWT with or without "Bearer " in front, as people write it into configuration; ERR_INVALID. */
enum err
token_from_setting(struct slice text, struct token *out) MUST_CHECK;

/* The claim of an accepted token (claim_names is comma-separated); ERR_MISSING when the token is
 * opaque or has none. */
enum err
token_claim(struct slice token, const char *claim_names, struct wire_id *out) MUST_CHECK;
/* The claim "exp" in seconds since 1970; ERR_MISSING. */
enum err
token_expiry(struct slice token, double *out) MUST_CHECK;

/* Token -> user id, for requests that are answered before the backend is asked.  Bounded; an entry
 * lives at most an hour and not past the token's own "exp". */
struct token_cache;
enum err
token_cache_create(size_t max_entries, struct token_cache **out) MUST_CHECK;
void
token_cache_destroy(struct token_cache *cache);
/* Remembers a copy; the oldest entry makes room. */
enum err
token_cache_put(struct token_cache *cache, struct slice token,
                const struct wire_id *user_id) MUST_CHECK;
/* Borrowed until the next call; NULL when unknown. */
const struct wire_id *
token_cache_get(struct token_cache *cache, struct slice token);
void
token_cache_drop(struct token_cache *cache, struct slice token);

#endif
