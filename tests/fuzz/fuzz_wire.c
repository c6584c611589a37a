/* An answer of the backend, read as each of the answers it could be; what is accepted goes on to
 * where the backend's values are used. */
#include "fuzz.h"

#include "mem.h"
#include "rules.h"
#include "upstream.h"

static void
check_message(const char *message)
{
    INVARIANT(message[0] != '\0');
    for (; *message != '\0'; message++) {
        INVARIANT((unsigned char)*message >= ' ' && *message != 0x7f);
    }
}

static void
read_proxy(struct slice body)
{
    char message[WIRE_MESSAGE_SIZE] = "";
    struct wire_proxy proxy;
    struct upstream upstream;
    if (wire_parse_proxy(body, &proxy, message)) {
        check_message(message);
        return;
    }
    if (upstream_from_proxy(&proxy, &upstream, message)) {
        check_message(message);
    }
    else {
        INVARIANT(upstream.host[0] != '\0' && upstream.port >= 1 && upstream.port <= 65535);
        INVARIANT(strpbrk(upstream.host, "@/\\ \r\n[]%") == NULL);
        INVARIANT((upstream.username == NULL) == (upstream.password == NULL));
        upstream_fini(&upstream);
    }
    wire_proxy_fini(&proxy);
}

static void
read_rules(struct slice body)
{
    char message[WIRE_MESSAGE_SIZE] = "";
    struct wire_rules list;
    struct rules *rules;
    struct rules_report report;
    if (wire_parse_rules(body, &list, message)) {
        check_message(message);
        return;
    }
    INVARIANT(!rules_build(&list, NULL, &rules, &report));
    INVARIANT(report.given == list.count && report.compiled == rules_count(rules));
    INVARIANT(report.compiled + report.rejected == report.given);
    rules_report_fini(&report);
    rules_unref(rules);
    wire_rules_fini(&list);
}

/* The bytes as an id and a URL: what comes out is JSON that Jansson reads. */
static void
build_activity(struct slice body)
{
    char message[WIRE_MESSAGE_SIZE];
    struct wire_proxy read_back;
    struct buf text;
    char *string = mem_copy(body.data, body.len);
    INVARIANT(string != NULL);
    struct wire_id id = {.kind = WIRE_ID_STRING, .string = string};
    struct wire_activity activity = {
        .user_id = &id,
        .url = string,
        .method = string,
        .status_code = 200,
        .timestamp = 1690000000.5,
    };
    buf_init(&text, 64 * body.len + 1024);
    INVARIANT(!wire_build_activity(&activity, &text));
    INVARIANT(memchr(text.data, '\n', text.len) == NULL);
    enum err err = wire_parse_proxy(buf_slice(&text), &read_back, message);
    if (!err) {
        wire_proxy_fini(&read_back);
    }
    else {
        /* The one thing that may be wrong with it, read as another answer. */
        INVARIANT(strncmp(message, "user_id", 7) == 0);
    }
    buf_fini(&text);
    mem_free(string);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice body = {(const char *)data, size};
    struct wire_id id;
    read_proxy(body);
    read_rules(body);
    build_activity(body);
    if (!wire_parse_claim(body, "user_id, sub,id", &id)) {
        INVARIANT(id.kind == WIRE_ID_INTEGER || id.string[0] != '\0');
        wire_id_fini(&id);
    }
    return 0;
}
