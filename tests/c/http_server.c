#include "http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_MAX (2 * 1024 * 1024)

struct connection {
    struct http_server *server;
    int fd;
    int index;
    char request[REQUEST_MAX];
    size_t len;
    bool last;
    bool reset; /* SO_LINGER is set so that a close resets */
};

static void
die(const char *what)
{
    perror(what);
    abort();
}

static void
send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);
        if (sent <= 0) {
            return; /* the client went away: its right */
        }
        data += sent;
        len -= (size_t)sent;
    }
}

static void
send_text(int fd, const char *text)
{
    send_all(fd, text, strlen(text));
}

static void
send_answer(int fd, int status, const char *headers, const char *body, size_t len)
{
    char head[512];
    snprintf(head, sizeof head, "HTTP/1.1 %d Test\r\nContent-Length: %zu\r\n%s\r\n", status, len,
             headers);
    send_text(fd, head);
    send_all(fd, body, len);
}

static void
send_large(int fd, bool chunked)
{
    static const char piece[10000];
    send_text(fd, chunked ? "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                          : "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
    for (int i = 0; i < 100; i++) {
        send_text(fd, chunked ? "2710\r\n" : "");
        send_all(fd, piece, sizeof piece);
        send_text(fd, chunked ? "\r\n" : "");
    }
    send_text(fd, chunked ? "0\r\n\r\n" : "");
}

/* Waits until the client or the test ends it. */
static void
stay_silent(struct connection *connection)
{
    struct http_server *server = connection->server;
    char byte;
    int open = atomic_fetch_add(&server->open_requests, 1) + 1;
    int most = atomic_load(&server->most_open);
    while (open > most && !atomic_compare_exchange_weak(&server->most_open, &most, open)) {
    }
    while (recv(connection->fd, &byte, 1, 0) > 0) {
    }
    atomic_fetch_sub(&server->open_requests, 1);
}

static void
break_off(struct connection *connection)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    send_text(connection->fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    connection->reset = true;
}

static void
send_retry_after(int fd, const char *path)
{
    char value[128], headers[160];
    snprintf(value, sizeof value, "%.*s", (int)strcspn(path, " "), path);
    for (char *c = value; *c != '\0'; c++) {
        *c = *c == '_' ? ' ' : *c;
    }
    snprintf(headers, sizeof headers, "Retry-After: %s\r\n", value);
    send_answer(fd, 503, headers, "", 0);
}

static bool
path_is(const char *request, const char *path)
{
    const char *at = strchr(request, ' ') + 1;
    size_t len = strlen(path);
    return strncmp(at, path, len) == 0
           && (at[len] == ' ' || at[len] == '?' || path[len - 1] == '/');
}

/* As `answer`. */
static bool
say(struct connection *connection)
{
    struct http_server_said *said =
        &connection->server
             ->said[(strstr(connection->request, "/said/")[6] - '0') % HTTP_SERVER_SAID];
    const char *body = atomic_load(&said->body);
    int status = atomic_load(&said->status);
    atomic_fetch_add(&said->asked, 1);
    if (status == 0) {
        stay_silent(connection);
        return false;
    }
    send_answer(connection->fd, status, "", body != NULL ? body : "",
                body != NULL ? strlen(body) : 0);
    return true;
}

/* False when the connection is to be closed. */
static bool
answer(struct connection *connection)
{
    int fd = connection->fd;
    const char *request = connection->request;
    if (path_is(request, "/ok")) {
        bool same = strstr(request, "If-None-Match: \"v1\"\r\n") != NULL;
        send_answer(fd, same ? 304 : 200, "ETag: \"v1\"\r\n", "hello", same ? 0 : 5);
    }
    else if (path_is(request, "/echo") || path_is(request, "/echo/")) {
        send_answer(fd, 200, "", request, connection->len);
    }
    else if (path_is(request, "/length") || path_is(request, "/chunked")) {
        send_large(fd, path_is(request, "/chunked"));
    }
    else if (path_is(request, "/redirect")) {
        send_answer(fd, 302, "Location: /ok\r\n", "", 0);
    }
    else if (path_is(request, "/bad-etag")) {
        send_answer(fd, 200, "ETag: \"a\" b\r\n", "", 0);
    }
    else if (path_is(request, "/status/")) {
        send_answer(fd, atoi(strstr(request, "/status/") + 8), "", "", 0);
    }
    else if (path_is(request, "/retry/")) {
        send_retry_after(fd, strstr(request, "/retry/") + 7);
    }
    else if (path_is(request, "/said/")) {
        return say(connection);
    }
    else if (path_is(request, "/last")) {
        connection->last = true;
        send_answer(fd, 200, "", "", 0);
    }
    else if (path_is(request, "/silent")) {
        stay_silent(connection);
        return false;
    }
    else if (path_is(request, "/reset")) {
        break_off(connection);
        return false;
    }
    else {
        send_text(fd, "certainly no HTTP\r\n\r\n");
        return false;
    }
    return true;
}

/* Reads one request with its body; false at the end of the connection. */
static bool
read_request(struct connection *connection)
{
    size_t want = 0;
    connection->len = 0;
    while (want == 0 || connection->len < want) {
        ssize_t got = recv(connection->fd, connection->request + connection->len,
                           REQUEST_MAX - 1 - connection->len, 0);
        if (got <= 0) {
            return false;
        }
        connection->len += (size_t)got;
        connection->request[connection->len] = '\0';
        const char *end = strstr(connection->request, "\r\n\r\n");
        if (want == 0 && end != NULL) {
            const char *length = strstr(connection->request, "Content-Length: ");
            want = (size_t)(end + 4 - connection->request)
                   + (length != NULL ? (size_t)atol(length + 16) : 0);
        }
    }
    return true;
}

/* Only a close sends the reset; otherwise the descriptor stays until the stop.  Whoever takes it
 * out of the table owns it, so that its number cannot become another's meanwhile. */
static void
shutdown_or_reset(struct connection *connection)
{
    if (!connection->reset) {
        shutdown(connection->fd, SHUT_RDWR);
    }
    else if (atomic_exchange(&connection->server->sockets[connection->index], -1) >= 0) {
        close(connection->fd);
    }
}

static void *
serve(void *context)
{
    struct connection *connection = context;
    while (read_request(connection)) {
        atomic_fetch_add(&connection->server->requests, 1);
        if (connection->last || !answer(connection)) {
            break;
        }
    }
    shutdown_or_reset(connection);
    free(connection);
    return NULL;
}

static void *
accept_all(void *context)
{
    struct http_server *server = context;
    for (int index = 0; index < HTTP_SERVER_CONNECTIONS; index++) {
        int fd = accept(server->listener, NULL, NULL);
        if (fd < 0) {
            break;
        }
        struct connection *connection = calloc(1, sizeof *connection);
        if (connection == NULL) {
            die("calloc");
        }
        connection->server = server;
        connection->fd = fd;
        connection->index = index;
        atomic_store(&server->sockets[index], fd);
        /* Counted first: the client may have its answer before this thread runs again. */
        atomic_fetch_add(&server->connections, 1);
        if (pthread_create(&server->threads[index], NULL, serve, connection) != 0) {
            die("pthread_create");
        }
    }
    return NULL;
}

void
http_server_start(struct http_server *server)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    memset(server, 0, sizeof *server);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server->listener < 0
        || bind(server->listener, (struct sockaddr *)&address, sizeof address) != 0
        || listen(server->listener, HTTP_SERVER_CONNECTIONS) != 0
        || getsockname(server->listener, (struct sockaddr *)&address, &size) != 0) {
        die("listen");
    }
    server->port = ntohs(address.sin_port);
    if (pthread_create(&server->acceptor, NULL, accept_all, server) != 0) {
        die("pthread_create");
    }
}

void
http_server_stop(struct http_server *server)
{
    atomic_store(&server->stopping, true);
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->acceptor, NULL);
    close(server->listener);
    int count = atomic_load(&server->connections);
    for (int i = 0; i < count; i++) {
        int fd = atomic_exchange(&server->sockets[i], -1);
        if (fd >= 0) {
            shutdown(fd, SHUT_RDWR);
        }
        pthread_join(server->threads[i], NULL);
        if (fd >= 0) {
            close(fd);
        }
    }
}
