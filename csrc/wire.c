#include "wire.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

/* The contract's answers are three levels deep; Jansson's own bound of 2048 is no bound for us. */
#define DEPTH_MAX 32
/* An identifier goes into each record; a longer one is not an identifier. */
#define ID_MAX 256
/* Ten digits before the point and microseconds behind it. */
#define TIMESTAMP_DIGITS 16
/* Method, two URLs and two identifiers, escaped; what does not fit is refused, not cut. */
#define ACTIVITY_MAX (1024 * 1024)
#define TTL_MAX_S 86400
/* What always fits into 64 bits. */
#define INTEGER_DIGITS 18

void
wire_init(void)
{
    json_object_seed(0);
}

const char *
wire_library_version(void)
{
    return jansson_version_str();
}

/* --- identifiers --- */

void
wire_id_fini(struct wire_id *id)
{
    if (id->kind == WIRE_ID_STRING) {
        mem_free(id->string);
    }
    *id = (struct wire_id){.kind = WIRE_ID_NONE};
}

enum err
wire_id_copy(const struct wire_id *from, struct wire_id *to)
{
    struct wire_id copy = *from;
    if (from->kind == WIRE_ID_STRING) {
        copy.string = mem_string(from->string);
        if (copy.string == NULL) {
            return ERR_MEMORY;
        }
    }
    *to = copy;
    return ERR_OK;
}

bool
wire_id_equal(const struct wire_id *a, const struct wire_id *b)
{
    if (a->kind != b->kind) {
        return false;
    }
    switch (a->kind) {
    case WIRE_ID_INTEGER:
        return a->integer == b->integer;
    case WIRE_ID_STRING:
        return strcmp(a->string, b->string) == 0;
    case WIRE_ID_NONE:
        break;
    }
    return true;
}

/* --- reading --- */

static bool
is_too_deep(struct slice body)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < body.len; i++) {
        char c = body.data[i];
        if (in_string) {
            in_string = c != '"';
            i += c == '\\';
        }
        else if (c == '"') {
            in_string = true;
        }
        else if (c == '[' || c == '{') {
            if (++depth > DEPTH_MAX) {
                return true;
            }
        }
        else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
    }
    return false;
}

/* Never quotes the text: it may hold credentials. */
static enum err
report_error(const json_error_t *error, char message[WIRE_MESSAGE_SIZE])
{
    const char *what = "not JSON";
    switch (json_error_code(error)) {
    case json_error_out_of_memory:
        return ERR_MEMORY;
    case json_error_duplicate_key:
        what = "a key occurs twice";
        break;
    case json_error_numeric_overflow:
        what = "a number is too large";
        break;
    case json_error_null_character:
    case json_error_null_byte_in_key:
        what = "a string holds U+0000";
        break;
    case json_error_invalid_utf8:
        what = "not UTF-8";
        break;
    default:
        break;
    }
    snprintf(message, WIRE_MESSAGE_SIZE, "%s (line %d, column %d)", what, error->line,
             error->column);
    return ERR_INVALID;
}

/* The type is JSON_OBJECT or JSON_ARRAY. */
static enum err
load(struct slice body, json_type type, json_t **out, char message[WIRE_MESSAGE_SIZE])
{
    json_error_t error;
    if (is_too_deep(body)) {
        snprintf(message, WIRE_MESSAGE_SIZE, "nested more than %d levels deep", DEPTH_MAX);
        return ERR_INVALID;
    }
    json_t *root =
        json_loadb(body.len > 0 ? body.data : "", body.len, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        return report_error(&error, message);
    }
    if (json_typeof(root) != type) {
        json_decref(root);
        snprintf(message, WIRE_MESSAGE_SIZE, "must be %s",
                 type == JSON_OBJECT ? "an object" : "an array");
        return ERR_INVALID;
    }
    *out = root;
    return ERR_OK;
}

/* Whether the string can be an identifier: one that a log line, a header or a label may hold. */
static bool
is_id(const json_t *value)
{
    const char *text = json_string_value(value);
    size_t len = json_string_length(value);
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f) {
            return false;
        }
    }
    return len > 0 && len <= ID_MAX;
}

/* ERR_INVALID when the value, which is not NULL, is no identifier. */
static enum err
read_id(const json_t *value, struct wire_id *out)
{
    if (json_is_integer(value)) {
        *out = (struct wire_id){.kind = WIRE_ID_INTEGER, .integer = json_integer_value(value)};
        return ERR_OK;
    }
    if (!json_is_string(value) || !is_id(value)) {
        return ERR_INVALID;
    }
    char *string = mem_copy(json_string_value(value), json_string_length(value));
    if (string == NULL) {
        return ERR_MEMORY;
    }
    *out = (struct wire_id){.kind = WIRE_ID_STRING, .string = string};
    return ERR_OK;
}

/* Absent and null leave *out as it is, in this and in the readers below. */
static enum err
take_id(const json_t *object, const char *key, struct wire_id *out, char message[WIRE_MESSAGE_SIZE])
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) {
        return ERR_OK;
    }
    enum err err = read_id(value, out);
    if (err == ERR_INVALID) {
        snprintf(message, WIRE_MESSAGE_SIZE,
                 "%s must be an integer or a string of 1 to %d bytes without control characters",
                 key, ID_MAX);
    }
    return err;
}

static enum err
take_string(const json_t *object, const char *key, char **out, char message[WIRE_MESSAGE_SIZE])
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) {
        return ERR_OK;
    }
    if (!json_is_string(value)) {
        snprintf(message, WIRE_MESSAGE_SIZE, "%s must be a string", key);
        return ERR_INVALID;
    }
    *out = mem_copy(json_string_value(value), json_string_length(value));
    return *out == NULL ? ERR_MEMORY : ERR_OK;
}

/* An integer and nothing else: "8080" in quotes is a mistake that is better found early.  Negative
 * ones would look like an absent port. */
static enum err
take_port(const json_t *object, int64_t *out, char message[WIRE_MESSAGE_SIZE])
{
    const json_t *value = json_object_get(object, "port");
    if (value == NULL || json_is_null(value)) {
        return ERR_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        snprintf(message, WIRE_MESSAGE_SIZE, "port must be an integer from 1 to 65535");
        return ERR_INVALID;
    }
    *out = json_integer_value(value);
    return ERR_OK;
}

/* null is not "absent" here: a backend that does not know whether the proxy works has not chosen
 * one. */
static enum err
take_is_working(const json_t *object, bool *out, char message[WIRE_MESSAGE_SIZE])
{
    const json_t *value = json_object_get(object, "is_working");
    if (value == NULL) {
        return ERR_OK;
    }
    if (!json_is_boolean(value)) {
        snprintf(message, WIRE_MESSAGE_SIZE, "is_working must be true or false");
        return ERR_INVALID;
    }
    *out = json_is_true(value);
    return ERR_OK;
}

/* Seconds. */
static enum err
take_ttl(const json_t *object, int64_t *out, char message[WIRE_MESSAGE_SIZE])
{
    const json_t *value = json_object_get(object, "ttl");
    if (value == NULL || json_is_null(value)) {
        return ERR_OK;
    }
    double seconds = json_number_value(value);
    if (!json_is_number(value) || !(seconds >= 0)) {
        snprintf(message, WIRE_MESSAGE_SIZE, "ttl must be a number of seconds");
        return ERR_INVALID;
    }
    *out = (int64_t)((seconds < TTL_MAX_S ? seconds : TTL_MAX_S) * 1000);
    return ERR_OK;
}

static enum err
take_proxy_strings(const json_t *root, struct wire_proxy *proxy, char message[WIRE_MESSAGE_SIZE])
{
    const struct {
        const char *key;
        char **out;
    } fields[] = {
        {"ip", &proxy->ip},
        {"address", &proxy->address},
        {"protocol", &proxy->protocol},
        {"username", &proxy->username},
        {"password", &proxy->password},
    };
    enum err err = ERR_OK;
    for (size_t i = 0; i < COUNT_OF(fields) && !err; i++) {
        err = take_string(root, fields[i].key, fields[i].out, message);
    }
    return err;
}

enum err
wire_parse_proxy(struct slice body, struct wire_proxy *out, char message[WIRE_MESSAGE_SIZE])
{
    struct wire_proxy proxy = {.port = -1, .is_working = true, .ttl_ms = -1};
    json_t *root;
    enum err err = load(body, JSON_OBJECT, &root, message);
    if (err) {
        return err;
    }
    err = take_id(root, "id", &proxy.id, message);
    if (!err) {
        err = take_id(root, "user_id", &proxy.user_id, message);
    }
    if (!err) {
        err = take_proxy_strings(root, &proxy, message);
    }
    if (!err) {
        err = take_port(root, &proxy.port, message);
    }
    if (!err) {
        err = take_is_working(root, &proxy.is_working, message);
    }
    if (!err) {
        err = take_ttl(root, &proxy.ttl_ms, message);
    }
    json_decref(root);
    if (err) {
        wire_proxy_fini(&proxy);
        return err;
    }
    *out = proxy;
    return ERR_OK;
}

static void
free_secret_string(char *string)
{
    mem_free_secret(string, string != NULL ? strlen(string) : 0);
}

void
wire_proxy_fini(struct wire_proxy *proxy)
{
    wire_id_fini(&proxy->id);
    wire_id_fini(&proxy->user_id);
    mem_free(proxy->ip);
    mem_free(proxy->address);
    mem_free(proxy->protocol);
    free_secret_string(proxy->username);
    free_secret_string(proxy->password);
    *proxy = (struct wire_proxy){.port = -1, .is_working = true, .ttl_ms = -1};
}

static enum err
read_rule(const json_t *item, struct wire_rule *rule, char message[WIRE_MESSAGE_SIZE])
{
    if (!json_is_object(item)) {
        snprintf(message, WIRE_MESSAGE_SIZE, "must be an object");
        return ERR_INVALID;
    }
    enum err err = take_id(item, "id", &rule->id, message);
    if (!err) {
        err = take_string(item, "pattern", &rule->pattern, message);
    }
    if (!err && rule->pattern == NULL) {
        snprintf(message, WIRE_MESSAGE_SIZE, "pattern must be a string");
        err = ERR_INVALID;
    }
    if (!err) {
        rule->pattern_len = strlen(rule->pattern);
    }
    return err;
}

enum err
wire_parse_rules(struct slice body, struct wire_rules *out, char message[WIRE_MESSAGE_SIZE])
{
    struct wire_rules rules = {NULL, 0};
    char problem[WIRE_MESSAGE_SIZE];
    json_t *root;
    enum err err = load(body, JSON_ARRAY, &root, message);
    if (err) {
        return err;
    }
    size_t count = json_array_size(root);
    rules.rules = mem_calloc(count, sizeof *rules.rules);
    err = rules.rules == NULL ? ERR_MEMORY : ERR_OK;
    while (!err && rules.count < count) {
        struct wire_rule *rule = &rules.rules[rules.count++];
        err = read_rule(json_array_get(root, rules.count - 1), rule, problem);
    }
    json_decref(root);
    if (err == ERR_INVALID) {
        snprintf(message, WIRE_MESSAGE_SIZE, "rule %zu of %zu: %.110s", rules.count, count,
                 problem);
    }
    if (err) {
        wire_rules_fini(&rules);
        return err;
    }
    *out = rules;
    return ERR_OK;
}

void
wire_rules_fini(struct wire_rules *rules)
{
    for (size_t i = 0; i < rules->count; i++) {
        wire_id_fini(&rules->rules[i].id);
        mem_free(rules->rules[i].pattern);
    }
    mem_free(rules->rules);
    *rules = (struct wire_rules){NULL, 0};
}

/* A JWT's "sub" is a string by its specification, and "7" there is the backend's 7. */
static void
make_integer(struct wire_id *id)
{
    size_t len = id->kind == WIRE_ID_STRING ? strlen(id->string) : 0;
    if (len == 0 || len > INTEGER_DIGITS || strspn(id->string, "0123456789") != len
        || (id->string[0] == '0' && len > 1)) {
        return;
    }
    int64_t integer = strtoll(id->string, NULL, 10);
    wire_id_fini(id);
    *id = (struct wire_id){.kind = WIRE_ID_INTEGER, .integer = integer};
}

/* ERR_MISSING also when the claim is there but is no identifier. */
static enum err
read_claim(const json_t *root, struct slice name, struct wire_id *out)
{
    char *key = mem_copy(name.data, name.len);
    if (key == NULL) {
        return ERR_MEMORY;
    }
    const json_t *value = json_object_get(root, key);
    mem_free(key);
    enum err err = value != NULL ? read_id(value, out) : ERR_INVALID;
    if (!err) {
        make_integer(out);
    }
    return err == ERR_INVALID ? ERR_MISSING : err;
}

enum err
wire_parse_claim(struct slice object, const char *claim_names, struct wire_id *out)
{
    char message[WIRE_MESSAGE_SIZE];
    json_t *root;
    enum err err = load(object, JSON_OBJECT, &root, message);
    if (err) {
        return err;
    }
    err = ERR_MISSING;
    for (const char *name = claim_names; err == ERR_MISSING && *name != '\0';) {
        name += strspn(name, ", ");
        size_t len = strcspn(name, ", ");
        err = read_claim(root, (struct slice){name, len}, out);
        name += len;
    }
    json_decref(root);
    return err;
}

enum err
wire_parse_number(struct slice object, const char *name, double *out)
{
    char message[WIRE_MESSAGE_SIZE];
    json_t *root;
    enum err err = load(object, JSON_OBJECT, &root, message);
    if (err) {
        return err;
    }
    const json_t *value = json_object_get(root, name);
    if (json_is_number(value)) {
        *out = json_number_value(value);
    }
    else {
        err = ERR_MISSING;
    }
    json_decref(root);
    return err;
}

/* --- writing --- */

/* The length of the UTF-8 sequence at text, 0 when it is none (RFC 3629). */
static size_t
utf8_sequence(const char *text)
{
    const unsigned char *bytes = (const unsigned char *)text;
    size_t len = bytes[0] < 0x80 ? 1 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
    unsigned char low = 0x80, high = 0xbf;
    if (len == 1) {
        return 1;
    }
    if (bytes[0] < 0xc2 || bytes[0] > 0xf4) {
        return 0;
    }
    /* The second byte is where overlong forms, surrogates and what lies beyond U+10FFFF show. */
    switch (bytes[0]) {
    case 0xe0:
        low = 0xa0;
        break;
    case 0xed:
        high = 0x9f;
        break;
    case 0xf0:
        low = 0x90;
        break;
    case 0xf4:
        high = 0x8f;
        break;
    default:
        break;
    }
    for (size_t i = 1; i < len; i++) {
        if (bytes[i] < low || bytes[i] > high) {
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return len;
}

static enum err
append_repaired(const char *text, struct buf *out)
{
    enum err err = ERR_OK;
    while (*text != '\0' && !err) {
        size_t len = utf8_sequence(text);
        err = len > 0 ? buf_append(out, text, len) : buf_append_string(out, "\xef\xbf\xbd");
        text += len > 0 ? len : 1;
    }
    return err;
}

/* NULL when out of memory. */
static json_t *
make_text(const char *text)
{
    json_t *value = json_string(text);
    if (value == NULL) {
        struct buf repaired;
        buf_init(&repaired, ACTIVITY_MAX);
        if (!append_repaired(text, &repaired)) {
            value = json_string(buf_string(&repaired));
        }
        buf_fini(&repaired);
    }
    return value;
}

static json_t *
make_id(const struct wire_id *id)
{
    if (id == NULL || id->kind == WIRE_ID_NONE) {
        return json_null();
    }
    return id->kind == WIRE_ID_INTEGER ? json_integer(id->integer) : make_text(id->string);
}

static int
append_dumped(const char *data, size_t len, void *context)
{
    return buf_append(context, data, len) ? -1 : 0;
}

/* NULL when out of memory. */
static json_t *
make_activity(const struct wire_activity *activity)
{
    const struct {
        const char *key;
        json_t *value;
    } fields[] = {
        {"user_id", make_id(activity->user_id)},
        {"endpoint", make_text(activity->url)},
        {"method", make_text(activity->method)},
        {"status_code", json_integer(activity->status_code)},
        {"target_url", make_text(activity->url)},
        {"proxy_id", make_id(activity->proxy_id)},
        {"timestamp", json_real(activity->timestamp)},
    };
    json_t *root = json_object();
    bool complete = root != NULL;
    for (size_t i = 0; i < COUNT_OF(fields); i++) {
        /* Takes the value, also when it fails. */
        complete = json_object_set_new(root, fields[i].key, fields[i].value) == 0 && complete;
    }
    if (!complete) {
        json_decref(root);
        return NULL;
    }
    return root;
}

enum err
wire_build_activity(const struct wire_activity *activity, struct buf *out)
{
    struct buf text;
    if (!isfinite(activity->timestamp)) {
        return ERR_INVALID;
    }
    json_t *root = make_activity(activity);
    if (root == NULL) {
        return ERR_MEMORY;
    }
    buf_init(&text, ACTIVITY_MAX);
    size_t flags = JSON_COMPACT | JSON_REAL_PRECISION(TIMESTAMP_DIGITS);
    enum err err = json_dump_callback(root, append_dumped, &text, flags) ? ERR_MEMORY : ERR_OK;
    if (!err) {
        err = buf_append_slice(out, buf_slice(&text));
    }
    buf_fini(&text);
    json_decref(root);
    return err;
}
