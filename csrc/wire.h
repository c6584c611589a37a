/* The JSON that crosses the backend's border: its answers into plain structs, our records into
 * text.
 *
 * Parsed structs own their strings until the matching …_fini; nothing of Jansson's leaves this
 * file.  Untrusted: sizes, depth and types are checked, duplicate keys are refused.
 *
 * Any thread.  wire_init once, before the first thread. */
#ifndef FORWARDER_WIRE_H
#define FORWARDER_WIRE_H

#include "buf.h"

#define WIRE_MESSAGE_SIZE 160

/* Seeds Jansson's hashing; must run before any thread uses it. */
void
wire_init(void);
/* "2.14", static storage. */
const char *
wire_library_version(void);

/* An identifier as the backend gave it: an integer, a string, or not there. */
struct wire_id {
    enum { WIRE_ID_NONE, WIRE_ID_INTEGER, WIRE_ID_STRING } kind;
    int64_t integer;
    char *string; /* terminated, owned; only for WIRE_ID_STRING */
};

void
wire_id_fini(struct wire_id *id);
enum err
wire_id_copy(const struct wire_id *from, struct wire_id *to) MUST_CHECK;
bool
wire_id_equal(const struct wire_id *a, const struct wire_id *b);

/* GET /proxy, 200.  Only types are checked here; upstream.h judges the values. */
struct wire_proxy {
    struct wire_id id;
    struct wire_id user_id;
    char *ip, *address, *protocol, *username, *password; /* owned; NULL where absent or null */
    int64_t port;                                        /* -1 where absent */
    bool is_working;                                     /* true where absent */
    int64_t ttl_ms;                                      /* -1 where absent */
};

/* ERR_INVALID writes one line into message. */
enum err
wire_parse_proxy(struct slice body, struct wire_proxy *out,
                 char message[WIRE_MESSAGE_SIZE]) MUST_CHECK;
void
wire_proxy_fini(struct wire_proxy *proxy);

/* GET /blacklist, 200: an array of {"id", "pattern", …}. */
struct wire_rule {
    struct wire_id id;
    char *pattern; /* owned, terminated; may hold no NUL */
    size_t pattern_len;
};

struct wire_rules {
    struct wire_rule *rules; /* owned */
    size_t count;
};

enum err
wire_parse_rules(struct slice body, struct wire_rules *out,
                 char message[WIRE_MESSAGE_SIZE]) MUST_CHECK;
void
wire_rules_fini(struct wire_rules *rules);

/* The body of POST /activity; borrowed strings, terminated. */
struct wire_activity {
    const struct wire_id *user_id, *proxy_id; /* NULL or WIRE_ID_NONE is null */
    const char *url;                          /* both "endpoint" and "target_url" */
    const char *method;
    int status_code;
    double timestamp; /* seconds since 1970 */
};

/* Appends one line of JSON, keys in the contract's order.  Bytes that are not UTF-8 become U+FFFD.
 */
enum err
wire_build_activity(const struct wire_activity *activity, struct buf *out) MUST_CHECK;

/* A number, whole or not.  ERR_MISSING when the JSON object holds none of that name. */
enum err wire_parse_number(struct slice object, const char *name, double *out) MUST_CHECK;

/* The first of the comma-separated claim names that the JSON object holds as integer or string;
 * digits-only strings stay strings.  ERR_MISSING when none is there. */
enum err
wire_parse_claim(struct slice object, const char *claim_names, struct wire_id *out) MUST_CHECK;

#endif
