/* HTTP to the backend: one libcurl multi handle with a keep-alive pool; plain requests in, plain
 * answers out.
 *
 * The client owns its handles.  A struct http_call belongs to the caller, who keeps it in place
 * from http_start until its `done` has been called; strings in it are borrowed for that time.
 *
 * One thread (the reactor), except http_wake: any thread.  http_global_init once, in the main
 * thread, before any other. */
#ifndef FORWARDER_HTTP_H
#define FORWARDER_HTTP_H

#include "buf.h"

enum http_method { HTTP_GET, HTTP_POST };

/* How a call ended when there is no status. */
enum http_failure {
    HTTP_FAILURE_NONE,      /* there is a status */
    HTTP_FAILURE_TIMEOUT,   /* not done within timeout_ms */
    HTTP_FAILURE_CONNECT,   /* name, connection or TLS could not be made */
    HTTP_FAILURE_BROKEN,    /* the connection died, or what came is not HTTP */
    HTTP_FAILURE_TOO_LARGE, /* more than max_body bytes, refused */
    HTTP_FAILURE_CANCELLED, /* http_cancel, or the client is being destroyed */
};

#define HTTP_MESSAGE_SIZE 200
#define HTTP_ETAG_SIZE 256

struct http_call;
typedef void
http_done_fn(struct http_call *call);

struct http_call {
    /* in; borrowed */
    enum http_method method;
    const char *url;
    const char *authorization;   /* whole header value, or NULL */
    const char *idempotency_key; /* or NULL */
    const char *if_none_match;   /* or NULL */
    struct slice body;           /* sent as application/json */
    int timeout_ms;
    size_t max_body;
    bool cuts_body;     /* what is beyond max_body is not read, and the status counts all the same */
    http_done_fn *done; /* on the reactor thread, from http_run; may start other calls */
    /* out */
    enum http_failure failure;
    int status;
    struct buf answer;               /* body; http_call_fini frees it */
    char etag[HTTP_ETAG_SIZE];       /* "" where there is none */
    int64_t retry_after_ms;          /* -1 where there is none */
    int64_t fresh_ms;                /* Cache-Control; 0: not to be used again, -1: says nothing */
    char message[HTTP_MESSAGE_SIZE]; /* one line for the log when failure is set; holds no secret */
    /* private */
    void *handle;
    void *headers;
};

/* TLS to the backend; every path may be NULL. */
struct http_tls {
    const char *ca_bundle; /* NULL: the system's */
    const char *client_cert;
    const char *client_key;
};

struct http_client;

enum err
http_global_init(void) MUST_CHECK;
/* "8.14.1 OpenSSL/3.5.1", static storage. */
const char *
http_library_version(void);

enum err
http_client_create(const struct http_tls *tls, int max_connections, int connect_timeout_ms,
                   struct http_client **out) MUST_CHECK;
/* Calls `done` of everything still running with HTTP_FAILURE_CANCELLED. */
void
http_client_destroy(struct http_client *client);

/* On failure `done` is not called. */
enum err
http_start(struct http_client *client, struct http_call *call) MUST_CHECK;
void
http_cancel(struct http_client *client, struct http_call *call);
void
http_call_fini(struct http_call *call);

/* Moves data for at most timeout_ms (or until woken), then calls `done` of what has ended. */
void
http_run(struct http_client *client, int timeout_ms);
void
http_wake(struct http_client *client);

#endif
