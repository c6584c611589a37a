/* A call is in one of four places: `waiting` for a connection in our own queue, `running` in
 * libcurl, `ended` until http_run tells its owner, or nowhere.  Easy handles outlive calls: they
 * are reset the moment a call leaves them, so that nothing of one call, least of all its token, is
 * there for the next.
 *
 * Our queue is in front of libcurl's because time spent in libcurl's would be spent in the wrong
 * order. */
#include "http.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "clock.h"
#include "http_text.h"
#include "list.h"
#include "mem.h"
#include "trust.h"

/* CURLOPT_PROTOCOLS_STR and a headers API that is always built in. */
#define LIBCURL_FLOOR 0x075500
#if LIBCURL_VERSION_NUM < LIBCURL_FLOOR
#error "libcurl 7.85.0 or newer is needed"
#endif

/* libcurl compares whole seconds with ">": 3 drops what has been idle for 4 s, and uvicorn closes
 * at 5 s. */
#define IDLE_MAX_S 3L
/* TLS is verified anew at least this often (a revoked or renewed certificate). */
#define LIFETIME_MAX_S 600L
#define RETRY_AFTER_MAX_S (24 * 60 * 60)
#define HEADER_LINE_MAX (64u * 1024u)

struct http_client {
    CURLM *multi;
    struct list waiting; /* oldest first */
    struct list running;
    struct list ended;
    struct list idle; /* transfers without a call, kept for their easy handle */
    int running_count, idle_count;
    int max_connections;
    long connect_timeout_ms;
    bool added; /* a call since libcurl last worked: there is nothing to wait for */
    bool closing;
    struct trust trust;
    char *client_cert, *client_key; /* NULL where not used */
};

/* What a call has while it is ours; call->handle points to it. */
struct transfer {
    struct link link; /* in one list of the client */
    CURL *easy;
    struct http_call *call;
    int64_t deadline_ms;
    bool too_large, out_of_memory; /* why the body was refused */
    bool cut;                      /* the rest of it was not wanted */
    bool running;
    char error[CURL_ERROR_SIZE];
};

/* ---- the library ---- */

static char library_version[64];

enum err
http_global_init(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return ERR_LIBRARY;
    }
    const curl_version_info_data *info = curl_version_info(CURLVERSION_NOW);
    snprintf(library_version, sizeof library_version, "%s %s", info->version,
             info->ssl_version != NULL ? info->ssl_version : "without TLS");
    /* Without an asynchronous resolver a slow name server would stop the reactor. */
    int needed = CURL_VERSION_SSL | CURL_VERSION_ASYNCHDNS;
    return info->version_num >= LIBCURL_FLOOR && (info->features & needed) == needed ? ERR_OK
                                                                                     : ERR_LIBRARY;
}

const char *
http_library_version(void)
{
    return library_version;
}

/* ---- request ---- */

static bool
call_is_valid(const struct http_call *call)
{
    return call->url != NULL && http_text_is_url(call->url) && call->done != NULL &&
           (call->authorization == NULL || http_text_is_value(call->authorization)) &&
           (call->idempotency_key == NULL || http_text_is_value(call->idempotency_key)) &&
           (call->if_none_match == NULL || http_text_is_value(call->if_none_match));
}

static enum err
add_header(struct curl_slist **headers, const char *line)
{
    struct curl_slist *longer = curl_slist_append(*headers, line);
    if (longer == NULL) {
        return ERR_MEMORY;
    }
    *headers = longer;
    return ERR_OK;
}

static enum err
add_value(struct curl_slist **headers, const char *name, const char *value)
{
    struct buf line;
    if (value == NULL) {
        return ERR_OK;
    }
    buf_init(&line, HEADER_LINE_MAX);
    enum err err = buf_append_format(&line, "%s: %s", name, value);
    if (!err) {
        err = add_header(headers, buf_string(&line));
    }
    buf_fini_secret(&line);
    return err;
}

static enum err
build_headers(const struct http_call *call, struct curl_slist **out)
{
    struct curl_slist *headers = NULL;
    enum err err = add_header(&headers, "Accept: application/json");
    if (!err) {
        err = add_header(&headers, "Accept-Encoding: identity");
    }
    if (!err && call->method == HTTP_POST) {
        err = add_header(&headers, "Content-Type: application/json");
        if (!err) {
            /* No colon-value: libcurl sends no Expect, so a body does not wait for a 100. */
            err = add_header(&headers, "Expect:");
        }
    }
    if (!err) {
        err = add_value(&headers, "Authorization", call->authorization);
    }
    if (!err) {
        err = add_value(&headers, "Idempotency-Key", call->idempotency_key);
    }
    if (!err) {
        err = add_value(&headers, "If-None-Match", call->if_none_match);
    }
    if (err) {
        curl_slist_free_all(headers);
        return err;
    }
    *out = headers;
    return ERR_OK;
}

static size_t
on_body(char *data, size_t size, size_t count, void *context)
{
    struct transfer *transfer = context;
    struct buf *answer = &transfer->call->answer;
    size_t len = size * count, room = answer->max - answer->len;
    if (transfer->call->cuts_body && len > room) {
        transfer->cut = true;
        len = room;
    }
    enum err err = buf_append(answer, data, len);
    if (err) {
        transfer->too_large = err == ERR_LIMIT;
        transfer->out_of_memory = err == ERR_MEMORY;
        return 0;
    }
    return transfer->cut ? 0 : size * count;
}

/* Stops at the first option that libcurl refuses: each is there for a reason. */
#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (!rc) {                                                                                 \
            rc = curl_easy_setopt(easy, option, value);                                            \
        }                                                                                          \
    } while (0)

/* Where the request may go, and nowhere else. */
static CURLcode
set_route(CURL *easy)
{
    CURLcode rc = CURLE_OK;
    /* With these unset, http_proxy in the environment gets the token and no_proxy decides who does
     * not. */
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOPROXY, "");
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    /* By ALPN, and so over TLS only. */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(CURLOPT_HTTP_CONTENT_DECODING, 0L);
    SET(CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    /* Or a call that timed out in the resolver would wait for the resolver's thread: with it, for
     * all other calls. */
    SET(CURLOPT_QUICK_EXIT, 1L);
#endif
    return rc;
}

static CURLcode
set_connection(CURL *easy, const struct http_client *client)
{
    CURLcode rc = CURLE_OK;
    SET(CURLOPT_CONNECTTIMEOUT_MS, client->connect_timeout_ms);
    SET(CURLOPT_MAXAGE_CONN, IDLE_MAX_S);
    SET(CURLOPT_MAXLIFETIME_CONN, LIFETIME_MAX_S);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    /* Both, always: NULL switches the compiled-in default off, which would be trusted beside what
     * was chosen. */
    SET(CURLOPT_CAINFO, client->trust.file);
    SET(CURLOPT_CAPATH, client->trust.directory);
    SET(CURLOPT_SSLCERT, client->client_cert);
    SET(CURLOPT_SSLKEY, client->client_key);
    return rc;
}

static CURLcode
set_request(struct transfer *transfer)
{
    CURL *easy = transfer->easy;
    struct http_call *call = transfer->call;
    CURLcode rc = CURLE_OK;
    SET(CURLOPT_URL, call->url);
    if (call->method == HTTP_POST) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDS, call->body.len > 0 ? call->body.data : "");
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.len);
    }
    else {
        SET(CURLOPT_HTTPGET, 1L);
    }
    SET(CURLOPT_HTTPHEADER, (struct curl_slist *)call->headers);
    SET(CURLOPT_USERAGENT, "mitm-forwarder/" FORWARDER_VERSION);
    /* Refuses by Content-Length; the rest is refused in on_body. */
    SET(CURLOPT_MAXFILESIZE_LARGE, call->cuts_body ? (curl_off_t)0 : (curl_off_t)call->max_body);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, (void *)transfer);
    SET(CURLOPT_ERRORBUFFER, transfer->error);
    SET(CURLOPT_PRIVATE, (void *)transfer);
    return rc;
}

/* ---- transfers ---- */

static void
transfer_destroy(struct transfer *transfer)
{
    curl_easy_cleanup(transfer->easy);
    mem_free(transfer);
}

static enum err
transfer_get(struct http_client *client, struct transfer **out)
{
    struct link *link = list_take_front(&client->idle);
    if (link != NULL) {
        client->idle_count--;
        *out = LIST_ENTRY(link, struct transfer, link);
        return ERR_OK;
    }
    struct transfer *transfer = mem_zalloc(sizeof *transfer);
    if (transfer == NULL) {
        return ERR_MEMORY;
    }
    link_init(&transfer->link);
    transfer->easy = curl_easy_init();
    if (transfer->easy == NULL) {
        mem_free(transfer);
        return ERR_MEMORY;
    }
    *out = transfer;
    return ERR_OK;
}

/* The call leaves; nothing of it stays. */
static void
transfer_put(struct http_client *client, struct transfer *transfer)
{
    struct http_call *call = transfer->call;
    curl_easy_reset(transfer->easy);
    curl_slist_free_all(call->headers);
    call->headers = NULL;
    call->handle = NULL;
    transfer->call = NULL;
    transfer->too_large = transfer->out_of_memory = transfer->cut = transfer->running = false;
    memset(transfer->error, 0, sizeof transfer->error);
    link_remove(&transfer->link);
    if (client->closing || client->idle_count >= client->max_connections) {
        transfer_destroy(transfer);
        return;
    }
    list_push_back(&client->idle, &transfer->link);
    client->idle_count++;
}

/* ---- how a call ends ---- */

static void
end_with_failure(struct http_client *client, struct transfer *transfer, enum http_failure failure,
                 const char *text)
{
    struct http_call *call = transfer->call;
    call->failure = failure;
    call->status = 0;
    buf_clear(&call->answer);
    snprintf(call->message, sizeof call->message, "%.*s", HTTP_MESSAGE_SIZE - 1, text);
    http_text_clean(call->message);
    link_remove(&transfer->link);
    list_push_back(&client->ended, &transfer->link);
}

/* The value of a header of the final answer; NULL where there is none. */
static const char *
get_header(CURL *easy, const char *name)
{
    struct curl_header *header;
    return curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &header) == CURLHE_OK ? header->value
                                                                                   : NULL;
}

/* Seconds or an HTTP date; -1 for what is neither. */
static int64_t
parse_retry_after(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    double seconds;
    if (digits > 0 && text[digits] == '\0') {
        seconds = digits > 9 ? RETRY_AFTER_MAX_S : (double)strtol(text, NULL, 10);
    }
    else {
        /* curl_getdate takes much more; an HTTP date begins with the name of a day. */
        time_t when = strchr("MTWFS", text[0]) != NULL ? curl_getdate(text, NULL) : (time_t)-1;
        if (when == (time_t)-1) {
            return -1;
        }
        seconds = (double)when - clock_wall_seconds();
    }
    seconds = seconds > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : seconds;
    return seconds > 0 ? (int64_t)(seconds * 1000) : 0;
}

/* All Cache-Control fields together, less the time that the answer has spent in a cache. */
static int64_t
fresh_ms(CURL *easy)
{
    struct curl_header *header;
    int64_t fresh_s = -1;
    for (size_t i = 0;
         curl_easy_header(easy, "Cache-Control", i, CURLH_HEADER, -1, &header) == CURLHE_OK; i++) {
        int64_t said_s = http_text_fresh_s(header->value);
        fresh_s = said_s >= 0 && (fresh_s < 0 || said_s < fresh_s) ? said_s : fresh_s;
        if (i + 1 >= header->amount) {
            break;
        }
    }
    const char *age = get_header(easy, "Age");
    if (fresh_s > 0 && age != NULL) {
        int64_t age_s = http_text_seconds(age, strlen(age));
        fresh_s = age_s >= 0 && age_s < fresh_s ? fresh_s - age_s : 0;
    }
    return fresh_s < 0 ? -1 : fresh_s * 1000;
}

static void
end_with_status(struct http_client *client, struct transfer *transfer)
{
    struct http_call *call = transfer->call;
    long status = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 100 || status > 999) {
        end_with_failure(client, transfer, HTTP_FAILURE_BROKEN, "the answer has no valid status");
        return;
    }
    call->status = (int)status;
    const char *etag = get_header(transfer->easy, "ETag");
    if (etag != NULL && strlen(etag) < sizeof call->etag && http_text_is_etag(etag)) {
        snprintf(call->etag, sizeof call->etag, "%s", etag);
    }
    const char *retry_after = get_header(transfer->easy, "Retry-After");
    if (retry_after != NULL) {
        call->retry_after_ms = parse_retry_after(retry_after);
    }
    call->fresh_ms = fresh_ms(transfer->easy);
    link_remove(&transfer->link);
    list_push_back(&client->ended, &transfer->link);
}

static enum http_failure
classify(const struct transfer *transfer, CURLcode rc)
{
    curl_off_t sending_us = 0;
    switch (rc) {
    case CURLE_OPERATION_TIMEDOUT:
        /* The connect timeout is no deadline of the call's. */
        curl_easy_getinfo(transfer->easy, CURLINFO_PRETRANSFER_TIME_T, &sending_us);
        return sending_us == 0 && clock_now_ms() < transfer->deadline_ms ? HTTP_FAILURE_CONNECT
                                                                         : HTTP_FAILURE_TIMEOUT;
    case CURLE_FILESIZE_EXCEEDED:
        return HTTP_FAILURE_TOO_LARGE;
    case CURLE_WRITE_ERROR:
        return transfer->too_large ? HTTP_FAILURE_TOO_LARGE : HTTP_FAILURE_BROKEN;
    case CURLE_URL_MALFORMAT:
    case CURLE_LOGIN_DENIED:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
        return HTTP_FAILURE_CONNECT;
    default:
        return HTTP_FAILURE_BROKEN;
    }
}

/* Takes a running transfer out of libcurl, before it goes to `ended`. */
static void
stop_running(struct http_client *client, struct transfer *transfer)
{
    curl_multi_remove_handle(client->multi, transfer->easy);
    transfer->running = false;
    client->running_count--;
}

static void
collect(struct http_client *client)
{
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(client->multi, &left)) != NULL;) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        CURLcode rc = message->data.result;
        struct transfer *transfer = NULL;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&transfer);
        stop_running(client, transfer);
        if (rc == CURLE_OK || transfer->cut) {
            end_with_status(client, transfer);
            continue;
        }
        const char *text = transfer->error[0] != '\0' ? transfer->error : curl_easy_strerror(rc);
        if (transfer->too_large || rc == CURLE_FILESIZE_EXCEEDED) {
            text = "the answer is larger than allowed";
        }
        else if (transfer->out_of_memory) {
            text = err_text(ERR_MEMORY);
        }
        end_with_failure(client, transfer, classify(transfer, rc), text);
    }
}

/* After an error of the multi handle the state of no transfer is known. */
static void
fail_running(struct http_client *client, const char *text)
{
    LIST_FOR_EACH_SAFE (link, after, &client->running) {
        struct transfer *transfer = LIST_ENTRY(link, struct transfer, link);
        stop_running(client, transfer);
        end_with_failure(client, transfer, HTTP_FAILURE_BROKEN, text);
    }
}

/* ---- the queue ---- */

static void
start_running(struct http_client *client, struct transfer *transfer, int64_t left_ms)
{
    CURLcode rc = curl_easy_setopt(transfer->easy, CURLOPT_TIMEOUT_MS, (long)left_ms);
    if (rc) {
        end_with_failure(client, transfer, HTTP_FAILURE_BROKEN, curl_easy_strerror(rc));
        return;
    }
    CURLMcode mc = curl_multi_add_handle(client->multi, transfer->easy);
    if (mc) {
        end_with_failure(client, transfer, HTTP_FAILURE_BROKEN, curl_multi_strerror(mc));
        return;
    }
    link_remove(&transfer->link);
    list_push_back(&client->running, &transfer->link);
    transfer->running = client->added = true;
    client->running_count++;
}

/* Starts what there is a connection for, and ends what has waited too long. */
static void
serve_waiting(struct http_client *client)
{
    int64_t now_ms = clock_now_ms();
    LIST_FOR_EACH_SAFE (link, after, &client->waiting) {
        struct transfer *transfer = LIST_ENTRY(link, struct transfer, link);
        int64_t left_ms = transfer->deadline_ms - now_ms;
        if (left_ms <= 0) {
            end_with_failure(client, transfer, HTTP_FAILURE_TIMEOUT,
                             "no free connection to the backend in time");
        }
        else if (client->running_count < client->max_connections) {
            start_running(client, transfer, left_ms);
        }
    }
}

static int
sleep_ms(struct http_client *client, int timeout_ms)
{
    if (!list_is_empty(&client->ended)) {
        return 0;
    }
    int64_t sleep = timeout_ms < 0 ? INT_MAX : timeout_ms;
    int64_t now_ms = clock_now_ms();
    LIST_FOR_EACH (link, &client->waiting) {
        int64_t left_ms = LIST_ENTRY(link, struct transfer, link)->deadline_ms - now_ms;
        sleep = left_ms < sleep ? left_ms : sleep;
    }
    return sleep > 0 ? (int)sleep : 0;
}

/* The call is its owner's again before `done`, which may free or reuse it. */
static void
tell_owners(struct http_client *client)
{
    struct list told;
    list_init(&told);
    /* Those that end while the owners are told wait for the next round: no owner can keep this one
     * going for ever. */
    for (struct link *link; (link = list_take_front(&client->ended)) != NULL;) {
        list_push_back(&told, link);
    }
    for (struct link *link; (link = list_take_front(&told)) != NULL;) {
        struct transfer *transfer = LIST_ENTRY(link, struct transfer, link);
        struct http_call *call = transfer->call;
        transfer_put(client, transfer);
        call->done(call);
    }
}

void
http_run(struct http_client *client, int timeout_ms)
{
    int still_running;
    CURLMcode mc = CURLM_OK;
    if (!client->added) {
        mc = curl_multi_poll(client->multi, NULL, 0, sleep_ms(client, timeout_ms), NULL);
    }
    client->added = false;
    if (!mc) {
        mc = curl_multi_perform(client->multi, &still_running);
    }
    collect(client);
    if (mc) {
        fail_running(client, curl_multi_strerror(mc));
    }
    serve_waiting(client);
    tell_owners(client);
}

void
http_wake(struct http_client *client)
{
    /* It fails only if the wake-up pipe is full, and then the reader is awake anyway. */
    (void)curl_multi_wakeup(client->multi);
}

/* ---- calls ---- */

static enum err
prepare(struct http_client *client, struct transfer *transfer)
{
    struct http_call *call = transfer->call;
    struct curl_slist *headers;
    enum err err = build_headers(call, &headers);
    if (err) {
        return err;
    }
    call->headers = headers;
    CURLcode rc = set_route(transfer->easy);
    if (!rc && !(rc = set_connection(transfer->easy, client))) {
        rc = set_request(transfer);
    }
    if (rc) {
        return rc == CURLE_OUT_OF_MEMORY ? ERR_MEMORY : ERR_LIBRARY;
    }
    return ERR_OK;
}

enum err
http_start(struct http_client *client, struct http_call *call)
{
    struct transfer *transfer;
    call->failure = HTTP_FAILURE_NONE;
    call->status = 0;
    buf_init(&call->answer, call->max_body);
    call->etag[0] = call->message[0] = '\0';
    call->retry_after_ms = call->fresh_ms = -1;
    call->handle = call->headers = NULL;
    if (client->closing) {
        return ERR_CLOSED;
    }
    if (!call_is_valid(call)) {
        return ERR_INVALID;
    }
    enum err err = transfer_get(client, &transfer);
    if (err) {
        return err;
    }
    transfer->call = call;
    transfer->deadline_ms = clock_now_ms() + call->timeout_ms;
    call->handle = transfer;
    if ((err = prepare(client, transfer))) {
        transfer_put(client, transfer);
        return err;
    }
    list_push_back(&client->waiting, &transfer->link);
    serve_waiting(client);
    return ERR_OK;
}

void
http_cancel(struct http_client *client, struct http_call *call)
{
    struct transfer *transfer = call->handle;
    if (transfer == NULL) {
        return;
    }
    if (transfer->running) {
        stop_running(client, transfer);
    }
    end_with_failure(client, transfer, HTTP_FAILURE_CANCELLED, "cancelled");
}

void
http_call_fini(struct http_call *call)
{
    assert(call->handle == NULL);
    buf_fini(&call->answer);
}

/* ---- clients ---- */

static void
cancel_all(struct http_client *client, struct list *calls)
{
    LIST_FOR_EACH_SAFE (link, after, calls) {
        http_cancel(client, LIST_ENTRY(link, struct transfer, link)->call);
    }
}

void
http_client_destroy(struct http_client *client)
{
    if (client == NULL) {
        return;
    }
    client->closing = true;
    cancel_all(client, &client->running);
    cancel_all(client, &client->waiting);
    while (!list_is_empty(&client->ended)) {
        tell_owners(client);
    }
    for (struct link *link; (link = list_take_front(&client->idle)) != NULL;) {
        transfer_destroy(LIST_ENTRY(link, struct transfer, link));
    }
    curl_multi_cleanup(client->multi);
    trust_fini(&client->trust);
    mem_free(client->client_cert);
    mem_free(client->client_key);
    mem_free(client);
}

/* NULL and "" are "not given". */
static enum err
copy_path(const char *path, char **out)
{
    if (path == NULL || path[0] == '\0') {
        return ERR_OK;
    }
    *out = mem_string(path);
    return *out == NULL ? ERR_MEMORY : ERR_OK;
}

enum err
http_client_create(const struct http_tls *tls, int max_connections, int connect_timeout_ms,
                   struct http_client **out)
{
    struct http_client *client = mem_zalloc(sizeof *client);
    if (client == NULL) {
        return ERR_MEMORY;
    }
    list_init(&client->waiting);
    list_init(&client->running);
    list_init(&client->ended);
    list_init(&client->idle);
    client->max_connections = max_connections;
    client->connect_timeout_ms = connect_timeout_ms;
    enum err err =
        trust_init(&client->trust, tls->ca_bundle, curl_version_info(CURLVERSION_NOW)->cainfo);
    if (err || (err = copy_path(tls->client_cert, &client->client_cert)) ||
        (err = copy_path(tls->client_key, &client->client_key))) {
        goto fail;
    }
    err = ERR_MEMORY;
    client->multi = curl_multi_init();
    if (client->multi == NULL) {
        goto fail;
    }
    err = ERR_LIBRARY;
    if (curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, (long)max_connections) ||
        curl_multi_setopt(client->multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX)) {
        goto fail;
    }
    *out = client;
    return ERR_OK;

fail:
    http_client_destroy(client);
    return err;
}
