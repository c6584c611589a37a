#include "token.h"

#include <string.h>

#include "clock.h"
#include "list.h"
#include "mem.h"

/* What may stand in front of the password in Basic credentials. */
#define USER_NAME_MAX 1024
/* A longer value cannot hold a token that we would take. */
#define BASIC_MAX ((TOKEN_MAX + USER_NAME_MAX) / 3 * 4 + 4)
/* How long an answer of the backend about a token may be remembered. */
#define REMEMBERED_MS INT64_C(3600000)

/* The characters of the two alphabets that differ (RFC 4648, 4 and 5). */
#define BASE64_STANDARD "+/"
#define BASE64_URL "-_"

static bool
is_alphanumeric(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool
is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

/* --- base64 --- */

static int
base64_value(char c, const char *last_two)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == last_two[0] ? 62 : c == last_two[1] ? 63 : -1;
}

/* Bytes that `len` characters can decode to, at most. */
#define DECODED_MAX(len) ((len) / 4 * 3 + 3)

/* Padding may be missing, as in a JWT, but must be right where it is there.  `out` has DECODED_MAX
 * bytes: of fixed size, for growing would leave copies of a secret behind. */
static enum err
base64_decode(struct slice text, const char *last_two, char *out, size_t *out_len)
{
    size_t len = text.len, end = 0;
    while (len > 0 && text.len - len < 2 && text.data[len - 1] == '=') {
        len--;
    }
    if (len % 4 == 1 || (len < text.len && text.len % 4 != 0)) {
        return ERR_INVALID;
    }
    uint32_t bits = 0;
    for (size_t i = 0; i < len; i++) {
        int value = base64_value(text.data[i], last_two);
        if (value < 0) {
            return ERR_INVALID;
        }
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 != 0) {
            /* After the 2nd, 3rd and 4th character 4, 2 and 0 bits wait for the next byte. */
            out[end++] = (char)(bits >> (2 * (3 - i % 4)));
        }
    }
    *out_len = end;
    return ERR_OK;
}

/* --- tokens in headers --- */

void
token_fini(struct token *token)
{
    mem_free_secret(token->text, token->len);
    *token = (struct token){NULL, 0};
}

enum err
token_copy(struct slice text, struct token *out)
{
    char *copy = mem_copy(text.data, text.len);
    if (copy == NULL) {
        return ERR_MEMORY;
    }
    *out = (struct token){copy, text.len};
    return ERR_OK;
}

/* RFC 6750: 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"=" */
static bool
is_token(struct slice text)
{
    size_t i = 0;
    while (i < text.len && (is_alphanumeric(text.data[i]) || is_one_of(text.data[i], "-._~+/"))) {
        i++;
    }
    bool has_content = i > 0;
    while (i < text.len && text.data[i] == '=') {
        i++;
    }
    return has_content && i == text.len && text.len <= TOKEN_MAX;
}

static struct slice
trim(struct slice text, const char *set)
{
    while (text.len > 0 && is_one_of(text.data[0], set)) {
        text.data++;
        text.len--;
    }
    while (text.len > 0 && is_one_of(text.data[text.len - 1], set)) {
        text.len--;
    }
    return text;
}

/* Whether the header's scheme is this one (given in lower case).  *value is what follows one or
 * more spaces, empty when something else follows: "Bearer:x" is a spoiled Bearer, which must not
 * travel on as somebody else's scheme. */
static bool
has_scheme(struct slice header, const char *name, struct slice *value)
{
    size_t len = strlen(name);
    header = trim(header, " \t");
    if (header.len < len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        char c = header.data[i];
        if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != name[i]) {
            return false;
        }
    }
    struct slice rest = {header.data + len, header.len - len};
    if (rest.len > 0
        && (is_alphanumeric(rest.data[0]) || is_one_of(rest.data[0], "!#$%&'*+-.^_`|~"))) {
        return false; /* a longer scheme name (RFC 9110, 5.6.2) */
    }
    bool is_separated = rest.len > 0 && rest.data[0] == ' ';
    *value = is_separated ? trim(rest, " ") : (struct slice){"", 0};
    return true;
}

static enum err
take_token(struct slice text, struct token *out, enum token_form *form)
{
    if (!is_token(text)) {
        *form = TOKEN_MALFORMED;
        return ERR_OK;
    }
    enum err err = token_copy(text, out);
    if (!err) {
        *form = TOKEN_FOUND;
    }
    return err;
}

enum err
token_from_bearer(struct slice header, struct token *out, enum token_form *form)
{
    struct slice value;
    if (has_scheme(header, "bearer", &value)) {
        return take_token(value, out, form);
    }
    *form = TOKEN_NONE;
    return ERR_OK;
}

/* RFC 7617: user-id ":" password. */
static enum err
take_credentials(struct slice text, struct token *out, enum token_form *form)
{
    const char *colon = memchr(text.data, ':', text.len);
    if (colon == NULL) {
        *form = TOKEN_MALFORMED;
        return ERR_OK;
    }
    size_t user_len = (size_t)(colon - text.data);
    struct slice user = {text.data, user_len};
    struct slice password = {colon + 1, text.len - user_len - 1};
    return take_token(password.len > 0 ? password : user, out, form);
}

static enum err
take_basic(struct slice value, struct token *out, enum token_form *form)
{
    size_t len, room = DECODED_MAX(value.len);
    if (value.len > BASIC_MAX) {
        *form = TOKEN_MALFORMED;
        return ERR_OK;
    }
    char *text = mem_alloc(room);
    if (text == NULL) {
        return ERR_MEMORY;
    }
    enum err err = base64_decode(value, BASE64_STANDARD, text, &len);
    if (!err) {
        err = take_credentials((struct slice){text, len}, out, form);
    }
    else {
        *form = TOKEN_MALFORMED;
        err = ERR_OK;
    }
    mem_free_secret(text, room);
    return err;
}

enum err
token_from_proxy_authorization(struct slice header, struct token *out, enum token_form *form)
{
    struct slice value;
    if (has_scheme(header, "basic", &value)) {
        return take_basic(value, out, form);
    }
    return token_from_bearer(header, out, form);
}

enum err
token_from_setting(struct slice text, struct token *out)
{
    struct slice value;
    text = trim(text, " \t\r\n");
    if (!has_scheme(text, "bearer", &value)) {
        value = text;
    }
    return is_token(value) ? token_copy(value, out) : ERR_INVALID;
}

/* --- claims --- */

/* A JWT is header "." payload "." signature. */
static enum err
find_payload(struct slice token, struct slice *out)
{
    if (token.len == 0) {
        return ERR_MISSING;
    }
    const char *end = token.data + token.len;
    const char *first = memchr(token.data, '.', token.len);
    const char *second = first != NULL ? memchr(first + 1, '.', (size_t)(end - first - 1)) : NULL;
    if (second == NULL || memchr(second + 1, '.', (size_t)(end - second - 1)) != NULL) {
        return ERR_MISSING;
    }
    *out = (struct slice){first + 1, (size_t)(second - first - 1)};
    return ERR_OK;
}

/* The payload's JSON; ERR_MISSING when the token is opaque. */
static enum err
read_payload(struct slice token, char **json, size_t *len)
{
    struct slice payload;
    enum err err = find_payload(token, &payload);
    if (err) {
        return err;
    }
    char *text = mem_alloc(DECODED_MAX(payload.len));
    if (text == NULL) {
        return ERR_MEMORY;
    }
    if (base64_decode(payload, BASE64_URL, text, len)) {
        mem_free(text);
        return ERR_MISSING;
    }
    *json = text;
    return ERR_OK;
}

enum err
token_claim(struct slice token, const char *claim_names, struct wire_id *out)
{
    char *json;
    size_t len;
    enum err err = read_payload(token, &json, &len);
    if (err) {
        return err;
    }
    err = wire_parse_claim((struct slice){json, len}, claim_names, out);
    mem_free(json);
    return err == ERR_INVALID ? ERR_MISSING : err;
}

enum err
token_expiry(struct slice token, double *out)
{
    char *json;
    size_t len;
    enum err err = read_payload(token, &json, &len);
    if (err) {
        return err;
    }
    err = wire_parse_number((struct slice){json, len}, "exp", out);
    mem_free(json);
    return err == ERR_INVALID ? ERR_MISSING : err;
}

/* --- whom the backend took a token for --- */

struct entry {
    struct link age;    /* oldest first */
    struct entry *next; /* in the same bucket */
    uint64_t hash;
    struct token token;
    struct wire_id user_id;
    int64_t expires_ms;
};

struct token_cache {
    struct list entries;
    size_t count, max;
    uint64_t seed;
    size_t mask; /* buckets - 1; a power of two of them */
    struct entry *buckets[];
};

/* FNV-1a from a random start.  It only chooses the bucket: tokens are compared byte by byte. */
static uint64_t
hash_token(const struct token_cache *cache, struct slice token)
{
    uint64_t hash = cache->seed;
    for (size_t i = 0; i < token.len; i++) {
        hash = (hash ^ (unsigned char)token.data[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 32;
}

/* The link that points to the entry of this token, or the NULL at the end of its bucket. */
static struct entry **
find_entry(struct token_cache *cache, struct slice token, uint64_t hash)
{
    struct entry **place = &cache->buckets[hash & cache->mask];
    while (*place != NULL
           && ((*place)->token.len != token.len
               || memcmp((*place)->token.text, token.data, token.len) != 0)) {
        place = &(*place)->next;
    }
    return place;
}

static void
remove_entry(struct token_cache *cache, struct entry **place)
{
    struct entry *entry = *place;
    *place = entry->next;
    link_remove(&entry->age);
    token_fini(&entry->token);
    wire_id_fini(&entry->user_id);
    mem_free(entry);
    cache->count--;
}

static void
remove_oldest(struct token_cache *cache)
{
    struct entry *entry = LIST_ENTRY(cache->entries.head.next, struct entry, age);
    struct slice token = {entry->token.text, entry->token.len};
    remove_entry(cache, find_entry(cache, token, entry->hash));
}

enum err
token_cache_create(size_t max_entries, struct token_cache **out)
{
    size_t buckets = 1, size;
    while (buckets < max_entries && buckets < SIZE_MAX / 2) {
        buckets *= 2;
    }
    if (!size_mul(buckets, sizeof(struct entry *), &size)
        || !size_add(size, sizeof(struct token_cache), &size)) {
        return ERR_LIMIT;
    }
    struct token_cache *cache = mem_zalloc(size);
    if (cache == NULL) {
        return ERR_MEMORY;
    }
    list_init(&cache->entries);
    cache->max = max_entries;
    cache->mask = buckets - 1;
    cache->seed = clock_random(UINT64_MAX);
    *out = cache;
    return ERR_OK;
}

void
token_cache_destroy(struct token_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    while (cache->count > 0) {
        remove_oldest(cache);
    }
    mem_free(cache);
}

/* An hour, or what is left of the token's own life; 0 when there is nothing left. */
static enum err
read_lifetime_ms(struct slice token, int64_t *out)
{
    double exp;
    int64_t lifetime_ms = REMEMBERED_MS;
    enum err err = token_expiry(token, &exp);
    if (!err) {
        double left_ms = (exp - clock_wall_seconds()) * 1000;
        if (left_ms < (double)lifetime_ms) {
            lifetime_ms = left_ms > 0 ? (int64_t)left_ms : 0;
        }
    }
    if (err == ERR_MEMORY) {
        return err;
    }
    *out = lifetime_ms;
    return ERR_OK;
}

static enum err
create_entry(struct slice token, const struct wire_id *user_id, struct entry **out)
{
    struct entry *entry = mem_zalloc(sizeof *entry);
    if (entry == NULL) {
        return ERR_MEMORY;
    }
    link_init(&entry->age);
    enum err err = token_copy(token, &entry->token);
    if (!err) {
        err = wire_id_copy(user_id, &entry->user_id);
    }
    if (err) {
        token_fini(&entry->token);
        mem_free(entry);
        return err;
    }
    *out = entry;
    return ERR_OK;
}

enum err
token_cache_put(struct token_cache *cache, struct slice token, const struct wire_id *user_id)
{
    int64_t lifetime_ms;
    struct entry *entry;
    enum err err = read_lifetime_ms(token, &lifetime_ms);
    if (err) {
        return err;
    }
    if (lifetime_ms == 0 || user_id->kind == WIRE_ID_NONE || cache->max == 0) {
        token_cache_drop(cache, token);
        return ERR_OK;
    }
    err = create_entry(token, user_id, &entry);
    if (err) {
        return err;
    }
    token_cache_drop(cache, token);
    if (cache->count == cache->max) {
        remove_oldest(cache);
    }
    entry->hash = hash_token(cache, token);
    entry->expires_ms = clock_now_ms() + lifetime_ms;
    entry->next = cache->buckets[entry->hash & cache->mask];
    cache->buckets[entry->hash & cache->mask] = entry;
    list_push_back(&cache->entries, &entry->age);
    cache->count++;
    return ERR_OK;
}

const struct wire_id *
token_cache_get(struct token_cache *cache, struct slice token)
{
    struct entry **place = find_entry(cache, token, hash_token(cache, token));
    if (*place == NULL) {
        return NULL;
    }
    if (clock_now_ms() >= (*place)->expires_ms) {
        remove_entry(cache, place);
        return NULL;
    }
    return &(*place)->user_id;
}

void
token_cache_drop(struct token_cache *cache, struct slice token)
{
    struct entry **place = find_entry(cache, token, hash_token(cache, token));
    if (*place != NULL) {
        remove_entry(cache, place);
    }
}
