/* A small HTTP/1.1 server on loopback for tests: the path says how it behaves.
 *
 * The struct is the caller's memory, in place from start to stop.  It allocates nothing through
 * mem.h.
 *
 * Start and stop: one thread.  The counters may be read at any time. */
#ifndef TEST_HTTP_SERVER_H
#define TEST_HTTP_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define HTTP_SERVER_CONNECTIONS 64

/* Paths:
 *   /ok            200, ETag "v1", body "hello"; 304 when If-None-Match says "v1"
 *   /echo, /echo/… 200, the body is the request as it came
 *   /silent        never answers
 *   /reset         half a body, then a reset
 *   /length        200 with Content-Length 1000000
 *   /chunked       200, 1000000 bytes in chunks
 *   /redirect      302 to /ok
 *   /garbage       bytes that are not HTTP
 *   /bad-etag      200 with an entity tag that is none
 *   /status/N      status N, no body
 *   /retry/V       503 with Retry-After: V ('_' stands for a blank)
 *   /last          200, and the next request on this connection finds it closed without a word
 *   /said/N        what said[N] says now, N one digit */
#define HTTP_SERVER_SAID 4

struct http_server_said {
    atomic_int status;          /* 0 never answers */
    _Atomic(const char *) body; /* static storage, or what outlives the server; NULL is empty */
    atomic_int asked;           /* how often */
};

struct http_server {
    struct http_server_said said[HTTP_SERVER_SAID];
    int listener;
    int port;
    pthread_t acceptor;
    pthread_t threads[HTTP_SERVER_CONNECTIONS];
    atomic_int sockets[HTTP_SERVER_CONNECTIONS];
    atomic_int connections;   /* accepted so far; the index of the next */
    atomic_int requests;      /* whole requests read */
    atomic_int open_requests; /* at /silent now, and the most there were at once */
    atomic_int most_open;
    atomic_bool stopping;
};

void
http_server_start(struct http_server *server);
void
http_server_stop(struct http_server *server);

#endif
