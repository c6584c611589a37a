#include "probe.h"

#include <string.h>

/* Bytes that a pattern repeats, of which runs are tried. */
#define REPEATED_MAX 4

struct samples {
    const struct pattern *pattern;
    char repeated[REPEATED_MAX];
    unsigned repeated_count;
    unsigned lead[REPEATED_MAX]; /* how much of `whole` stands before each */
    char whole[PROBE_UNIT_MAX]; /* what the pattern matches, roughly */
    unsigned whole_len;
    char fixed[PROBE_TAIL_MAX]; /* bytes that stand in it */
    unsigned fixed_count;
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

/* Once, while there is room. */
static void
add_once(char *bytes, unsigned *count, unsigned max, char byte)
{
    if (*count < max && memchr(bytes, byte, *count) == NULL) {
        bytes[(*count)++] = byte;
    }
}

static void
add_sample(struct samples *samples, const struct pattern_node *node, bool repeated)
{
    char byte = sample_byte(samples->pattern, node);
    if (byte == '\0') {
        return;
    }
    if (repeated) {
        samples->lead[samples->repeated_count % REPEATED_MAX] = samples->whole_len;
        add_once(samples->repeated, &samples->repeated_count, REPEATED_MAX, byte);
    }
    if (samples->whole_len < PROBE_UNIT_MAX) {
        samples->whole[samples->whole_len++] = byte;
    }
    if (node->kind == PATTERN_BYTE) {
        add_once(samples->fixed, &samples->fixed_count, PROBE_TAIL_MAX, byte);
    }
}

static void
collect(struct samples *samples, uint32_t index, bool repeated)
{
    const struct pattern_node *node = pattern_node(samples->pattern, index);
    switch (node->kind) {
    case PATTERN_BYTE:
    case PATTERN_CLASS:
        add_sample(samples, node, repeated);
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

/* `lead` bytes of what the pattern matches, then the text again and again. */
static void
add_unit(struct probe *probe, unsigned lead, const char *text, size_t len)
{
    if (len > 0 && len <= PROBE_UNIT_MAX && probe->count < PROBE_UNITS) {
        memcpy(probe->units[probe->count].text, text, len);
        probe->units[probe->count].lead = (uint8_t)lead;
        probe->units[probe->count++].len = (uint8_t)len;
    }
}

void
probe_init(struct probe *probe, const struct pattern *pattern, const struct literal_set *literals)
{
    struct samples samples = {.pattern = pattern};
    probe->count = probe->next = probe->tail_len = 0;
    collect(&samples, pattern->root, false);
    for (unsigned i = 0; i < samples.repeated_count; i++) {
        add_unit(probe, samples.lead[i], &samples.repeated[i], 1);
    }
    if (samples.repeated_count > 1) {
        add_unit(probe, samples.lead[0], samples.repeated, samples.repeated_count);
    }
    /* A part of what matches, again and again, and never to the end. */
    if (samples.whole_len > 1) {
        add_unit(probe, 0, samples.whole, samples.whole_len - 1);
    }
    if (literals->count > 0) {
        add_unit(probe, 0, literals->text[0], literals->len[0]);
    }
    memcpy(probe->whole, samples.whole, samples.whole_len);
    probe->names_scheme = samples.whole_len >= 4 && memcmp(samples.whole, "http", 4) == 0;
    /* What the pattern does not go on with; and then, in the wrong order, what PCRE2 does not begin to search without. */
    bool takes_mark = memchr(samples.fixed, '!', samples.fixed_count) != NULL;
    probe->tail[probe->tail_len++] = takes_mark ? '~' : '!';
    while (samples.fixed_count > 0) {
        probe->tail[probe->tail_len++] = samples.fixed[--samples.fixed_count];
    }
}

bool
probe_next(struct probe *probe, struct slice *subject)
{
    static const struct slice scheme = SLICE_LITERAL("https://");
    if (probe->next == probe->count) {
        return false;
    }
    size_t len = 0, lead = probe->units[probe->next].lead, unit = probe->units[probe->next].len;
    if (lead == 0 || !probe->names_scheme) {
        memcpy(probe->subject, scheme.data, scheme.len);
        len = scheme.len;
    }
    memcpy(probe->subject + len, probe->whole, lead);
    for (len += lead; len + unit + probe->tail_len <= PROBE_LENGTH; len += unit) {
        memcpy(probe->subject + len, probe->units[probe->next].text, unit);
    }
    memcpy(probe->subject + len, probe->tail, probe->tail_len);
    probe->next++;
    *subject = (struct slice){probe->subject, len + probe->tail_len};
    return true;
}
