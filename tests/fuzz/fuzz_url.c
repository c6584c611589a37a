/* A URL from a client: line 1 the authority, the rest the path.  Whatever is accepted is ASCII, has
 * no dot segments and one slash at a time, and its host is canonical already. */
#include "fuzz.h"

#include "url.h"

static void
check_text(struct slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        INVARIANT(text.data[i] > ' ' && text.data[i] < 0x7f && text.data[i] != '#');
    }
}

static void
check_canonical(const char *canonical)
{
    const char *authority = strstr(canonical, "://") + 3;
    const char *path = strchr(authority, '/');
    INVARIANT(path != NULL);
    size_t len = strcspn(path, "?");
    for (size_t i = 0; i < len; i++) {
        const char *rest = path + i;
        bool ends_segment = strchr("/?", rest[1]) != NULL;
        INVARIANT(rest[0] != '\\');
        INVARIANT(rest[0] != '/' || rest[1] != '/');
        INVARIANT(strncmp(rest, "/../", 4) != 0 && strncmp(rest, "/./", 3) != 0);
        INVARIANT(rest[0] != '%' || (i + 2 < len && !ends_segment));
    }
    for (const char *c = authority; c < path; c++) {
        INVARIANT(*c < 'A' || *c > 'Z');
    }
}

static void
check_host(struct slice host)
{
    struct buf once, twice;
    bool is_ip, is_ip_again;
    buf_init(&once, URL_HOST_MAX);
    buf_init(&twice, URL_HOST_MAX);
    if (!url_canonical_host(host, &once, &is_ip)) {
        INVARIANT(!url_canonical_host(buf_slice(&once), &twice, &is_ip_again));
        INVARIANT(strcmp(buf_string(&once), buf_string(&twice)) == 0);
        INVARIANT(is_ip == is_ip_again);
    }
    buf_fini(&once);
    buf_fini(&twice);
}

static void
check_loggable(struct slice raw)
{
    struct buf loggable;
    buf_init(&loggable, raw.len + 8);
    INVARIANT(!url_append_loggable(raw, &loggable));
    const char *query = strchr(buf_string(&loggable), '?');
    INVARIANT(query == NULL || strcmp(query, "?…") == 0);
    buf_fini(&loggable);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest = {(const char *)data, size};
    struct slice authority = fuzz_take_line(&rest), host;
    int port;
    struct url url;
    check_host(authority);
    check_loggable((struct slice){(const char *)data, size});
    if (url_split_authority(authority, &host, &port)) {
        return 0;
    }
    INVARIANT(host.len > 0 && (port == -1 || (port >= 1 && port <= 65535)));
    struct url_parts parts = {SLICE_LITERAL("https"), host, port == -1 ? 443 : port, rest};
    if (!url_build(&parts, &url)) {
        check_text(buf_slice(&url.raw));
        check_text(buf_slice(&url.canonical));
        check_canonical(buf_string(&url.canonical));
        check_loggable(buf_slice(&url.raw));
        url_fini(&url);
    }
    return 0;
}
