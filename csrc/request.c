#include "request.h"

#include <string.h>

#include "mem.h"

/* Of what a hostile client may make long. */
#define METHOD_MAX 64
#define SCHEME_SHOWN 16
#define TOKEN_UNMISTAKABLE 16

/* What a rule must see too, where a header or the SNI names another host than the target. */
static enum err
other_host_url(const struct request_input *input, struct slice host, const struct url *url,
               struct buf *out)
{
    struct url_parts parts = input->target;
    struct url other;
    if (host.len == parts.host.len && memcmp(host.data, parts.host.data, host.len) == 0) {
        return ERR_OK;
    }
    parts.host = host;
    enum err err = url_build(&parts, &other);
    if (err) {
        return err;
    }
    if (strcmp(buf_string(&other.canonical), buf_string(&url->canonical)) != 0) {
        err = buf_append_slice(out, buf_slice(&other.canonical));
    }
    url_fini(&other);
    return err;
}

static enum err
read_hosts(struct request *request, const struct request_input *input)
{
    struct slice authorities[] = {input->host_header, input->authority};
    for (size_t i = 0; i < COUNT_OF(authorities); i++) {
        struct slice host;
        int port;
        if (authorities[i].len == 0) {
            continue;
        }
        enum err err = url_split_authority(authorities[i], &host, &port);
        if (!err) {
            err = other_host_url(input, host, &request->url, &request->other_urls[i]);
        }
        if (err) {
            return err;
        }
    }
    if (input->sni.len == 0) {
        return ERR_OK;
    }
    return other_host_url(input, input->sni, &request->url,
                          &request->other_urls[COUNT_OF(authorities)]);
}

/* For a target that could not be read: enough for a log line and a record. */
static enum err
append_visible(struct buf *out, struct slice text, size_t max)
{
    static const char hex[] = "0123456789ABCDEF";
    enum err err = ERR_OK;
    for (size_t i = 0; i < text.len && i < max && !err; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c > 0x20 && c < 0x7f) {
            err = buf_append_char(out, (char)c);
        }
        else {
            err = buf_append(out, (char[]){'%', hex[c >> 4], hex[c & 15]}, 3);
        }
    }
    return err;
}

static enum err
build_unreadable_url(struct request *request, const struct request_input *input)
{
    struct buf *raw = &request->url.raw;
    buf_init(raw, 4 * URL_MAX);
    enum err err = append_visible(raw, input->target.scheme, SCHEME_SHOWN);
    if (!err) {
        err = buf_append_string(raw, "://");
    }
    if (!err) {
        err = append_visible(raw, input->target.host, URL_HOST_MAX);
    }
    if (!err) {
        err = buf_append_format(raw, ":%d", input->target.port);
    }
    if (!err) {
        err = append_visible(raw, input->target.path, URL_MAX);
    }
    return err;
}

static enum err
read_target(struct request *request, const struct request_input *input)
{
    enum err err = url_build(&input->target, &request->url);
    if (!err) {
        err = read_hosts(request, input);
    }
    if (err && err != ERR_MEMORY) {
        request->reason = REASON_bad_request;
        if (request->url.raw.len == 0) {
            err = build_unreadable_url(request, input);
        }
        else {
            err = ERR_OK;
        }
    }
    if (!err) {
        err = url_append_loggable(buf_slice(&request->url.raw), &request->loggable);
    }
    return err;
}

static bool
token_equal(const struct token *a, const struct token *b)
{
    return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

/* Proxy-Authorization, on the request or its CONNECT, wins; then Authorization belongs to the
 * target, unless it is the same token once more (DESIGN.md §3.2b, RFC 9110 11.7). */
static enum err
read_token(struct request *request, const struct request_input *input,
           const struct request_policy *policy)
{
    enum token_form form = TOKEN_NONE, bearer_form = TOKEN_NONE;
    struct token bearer = {NULL, 0};
    struct slice proxy_authorization = input->proxy_authorization.len > 0
                                           ? input->proxy_authorization
                                           : input->tunnel_authorization;
    enum err err = token_from_proxy_authorization(proxy_authorization, &request->token, &form);
    if (!err) {
        err = token_from_bearer(input->authorization, &bearer, &bearer_form);
    }
    if (err) {
        return err;
    }
    if (form == TOKEN_NONE) {
        form = bearer_form;
        request->token = bearer;
        bearer = (struct token){NULL, 0};
        request->takes_authorization = form != TOKEN_NONE && !policy->forward_authorization;
    }
    else if (form == TOKEN_FOUND && bearer_form == TOKEN_FOUND) {
        request->takes_authorization =
            token_equal(&request->token, &bearer) && !policy->forward_authorization;
    }
    token_fini(&bearer);
    if (form == TOKEN_NONE && policy->default_token->len > 0) {
        return token_copy((struct slice){policy->default_token->text, policy->default_token->len},
                          &request->token);
    }
    if (request->reason == REASON_NONE && form == TOKEN_MALFORMED) {
        request->reason = REASON_bad_token;
    }
    else if (request->reason == REASON_NONE && form == TOKEN_NONE && policy->require_token) {
        request->reason = REASON_no_token;
    }
    return ERR_OK;
}

enum err
request_create(const struct request_input *input, const struct request_policy *policy, void *owner,
               struct request **out)
{
    struct request *request = mem_zalloc(sizeof *request);
    if (request == NULL) {
        return ERR_MEMORY;
    }
    link_init(&request->link);
    link_init(&request->live);
    permit_init(&request->permit);
    for (size_t i = 0; i < REQUEST_OTHER_HOSTS; i++) {
        buf_init(&request->other_urls[i], 4 * URL_MAX);
    }
    buf_init(&request->loggable, 4 * URL_MAX);
    request->state = REQUEST_DECIDED;
    request->owner = owner;
    request->forward_authorization = policy->forward_authorization;
    request->started_ms = clock_now_ms();
    request->started_wall = clock_wall_seconds();
    request->deadline_ms = request->started_ms + policy->timeout_ms;
    clock_uuid(request->id);
    request->method = mem_copy(input->method.data,
                               input->method.len < METHOD_MAX ? input->method.len : METHOD_MAX);
    enum err err = request->method == NULL ? ERR_MEMORY : read_target(request, input);
    if (!err) {
        err = read_token(request, input, policy);
    }
    if (err) {
        request_destroy(request);
        return err;
    }
    *out = request;
    return ERR_OK;
}

void
request_destroy(struct request *request)
{
    if (request == NULL) {
        return;
    }
    assert(request->lookup == NULL && !link_is_linked(&request->link)
           && !link_is_linked(&request->live));
    for (size_t i = 0; i < request->tried_count; i++) {
        upstream_fini(&request->tried[i]);
    }
    mem_free(request->tried);
    upstream_fini(&request->upstream);
    wire_id_fini(&request->user_id);
    token_fini(&request->token);
    buf_fini(&request->loggable);
    for (size_t i = 0; i < REQUEST_OTHER_HOSTS; i++) {
        buf_fini(&request->other_urls[i]);
    }
    url_fini(&request->url);
    mem_free(request->method);
    mem_free(request);
}

enum err
request_set_aside(struct request *request)
{
    struct upstream *tried =
        mem_realloc(request->tried, (request->tried_count + 1) * sizeof *tried);
    if (tried == NULL) {
        return ERR_MEMORY;
    }
    request->tried = tried;
    request->tried[request->tried_count++] = request->upstream;
    request->upstream = (struct upstream){.host = NULL};
    request->routed = false;
    return ERR_OK;
}

bool
request_has_tried(const struct request *request, const struct upstream *upstream)
{
    for (size_t i = 0; i < request->tried_count; i++) {
        if (upstream_equal(&request->tried[i], upstream)) {
            return true;
        }
    }
    return false;
}

bool
request_is_decided(const struct request *request)
{
    return request->state == REQUEST_DECIDED;
}

bool
request_is_recorded(const struct request *request)
{
    return request->recorded;
}

bool
request_is_finished(const struct request *request)
{
    return request->finished;
}

void *
request_owner(const struct request *request)
{
    return request->owner;
}

enum reason
request_reason(const struct request *request)
{
    return request->reason;
}

const char *
request_detail(const struct request *request)
{
    return request->detail;
}

const struct upstream *
request_upstream(const struct request *request)
{
    return request->routed ? &request->upstream : NULL;
}

bool
request_takes_authorization(const struct request *request)
{
    return request->takes_authorization;
}

struct slice
request_token(const struct request *request)
{
    return (struct slice){request->token.text, request->token.len};
}

struct slice
request_token_to_hide(const struct request *request)
{
    /* A short text may occur in other credentials by chance. */
    if (request->forward_authorization || request->token.len < TOKEN_UNMISTAKABLE) {
        return (struct slice){NULL, 0};
    }
    return (struct slice){request->token.text, request->token.len};
}

const char *
request_id(const struct request *request)
{
    return request->id;
}

const char *
request_method(const struct request *request)
{
    return request->method;
}

const char *
request_loggable_url(const struct request *request)
{
    return buf_string(&request->loggable);
}

int64_t
request_started_ms(const struct request *request)
{
    return request->started_ms;
}

int64_t
request_deadline_ms(const struct request *request)
{
    return request->deadline_ms;
}
