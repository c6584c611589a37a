#include "probe.h"

#include <string.h>

/* Bytes that a pattern repeats, of which runs are tried. */
#define REPEATED_MAX 4

struct samples {
    const struct pattern *pattern;
    char repeated[REPEATED_MAX];
    unsigned repeated_count;
    char whole[PROBE_UNIT_MAX]; /* what the pattern matches, roughly */
    unsigned whole_len;
};

/* A byte that the node matches, of those first that many patterns are about; 0: none that is of use in a URL. */
static char
sample_byte(const struct pattern *pattern, const struct pattern_node *node)
{
    static const char usual[] = "a/1.-,=x%";
    if (node->kind == PATTERN_BYTE) {
        return (char)node->byte;
    }
    const struct pattern_set *set = pattern_set(pattern, node);
    for (size_t i = 0; i + 1 < sizeof usual; i++) {
        if (pattern_set_has(set, (unsigned char)usual[i])) {
            return usual[i];
        }
    }
    for (unsigned byte = '!'; byte < 0x7f; byte++) {
        if (pattern_set_has(set, (unsigned char)byte)) {
            return (char)byte;
        }
    }
    return '\0';
}

static void
add_sample(struct samples *samples, char byte, bool repeated)
{
    if (byte == '\0') {
        return;
    }
    if (samples->whole_len < PROBE_UNIT_MAX) {
        samples->whole[samples->whole_len++] = byte;
    }
    if (repeated && samples->repeated_count < REPEATED_MAX
        && memchr(samples->repeated, byte, samples->repeated_count) == NULL) {
        samples->repeated[samples->repeated_count++] = byte;
    }
}

static void
collect(struct samples *samples, uint32_t index, bool repeated)
{
    const struct pattern_node *node = pattern_node(samples->pattern, index);
    switch (node->kind) {
    case PATTERN_BYTE:
    case PATTERN_CLASS:
        add_sample(samples, sample_byte(samples->pattern, node), repeated);
        break;
    case PATTERN_REPEAT:
        collect(samples, node->child, repeated || node->max > 1);
        break;
    default:
        for (uint32_t child = node->child; child != 0; child = pattern_node(samples->pattern, child)->next) {
            collect(samples, child, repeated);
        }
    }
}

static void
add_unit(struct probe *probe, const char *text, size_t len)
{
    if (len > 0 && len <= PROBE_UNIT_MAX && probe->count < PROBE_UNITS) {
        memcpy(probe->units[probe->count].text, text, len);
        probe->units[probe->count++].len = (uint8_t)len;
    }
}

void
probe_init(struct probe *probe, const struct pattern *pattern, const struct literal_set *literals)
{
    struct samples samples = {.pattern = pattern};
    probe->count = probe->next = 0;
    collect(&samples, pattern->root, false);
    for (unsigned i = 0; i < samples.repeated_count; i++) {
        add_unit(probe, &samples.repeated[i], 1);
    }
    if (samples.repeated_count > 1) {
        add_unit(probe, samples.repeated, samples.repeated_count);
    }
    /* A part of what matches, again and again, and never to the end. */
    if (samples.whole_len > 1) {
        add_unit(probe, samples.whole, samples.whole_len - 1);
    }
    if (literals->count > 0) {
        add_unit(probe, literals->text[0], literals->len[0]);
    }
    probe->plain_http = samples.whole_len >= 5 && memcmp(samples.whole, "http:", 5) == 0;
}

bool
probe_next(struct probe *probe, struct slice *subject)
{
    if (probe->next == probe->count) {
        return false;
    }
    struct slice begin = probe->plain_http ? SLICE_LITERAL("http://") : SLICE_LITERAL("https://");
    size_t len = begin.len, unit = probe->units[probe->next].len;
    memcpy(probe->subject, begin.data, begin.len);
    for (; len + unit < PROBE_LENGTH; len += unit) {
        memcpy(probe->subject + len, probe->units[probe->next].text, unit);
    }
    /* What few patterns end with. */
    probe->subject[len++] = '!';
    probe->next++;
    *subject = (struct slice){probe->subject, len};
    return true;
}
