/* A rule and a URL: line 1 the rule, the rest the URL.  Whoever matches holds one of the necessary literals, of both
 * sets; and no rule, however odd, is too much for what looks at its tree. */
#include "fuzz.h"

#include <ctype.h>

#include "dialect.h"
#include "literals.h"
#include "probe.h"
#include "risk.h"

static bool
holds(struct slice subject, const char *text, size_t len)
{
    for (size_t at = 0; at + len <= subject.len; at++) {
        size_t i = 0;
        while (i < len && tolower((unsigned char)subject.data[at + i]) == text[i]) {
            i++;
        }
        if (i == len) {
            return true;
        }
    }
    return false;
}

static bool
holds_one_of(struct slice subject, const struct literal_set *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        if (holds(subject, set->text[i], set->len[i])) {
            return true;
        }
    }
    return set->count == 0;
}

static void
check_set(const struct literal_set *set)
{
    INVARIANT(set->count <= LITERALS_SET_MAX);
    for (unsigned i = 0; i < set->count; i++) {
        INVARIANT(set->len[i] >= LITERALS_TEXT_MIN && set->len[i] <= LITERALS_TEXT_MAX);
        for (unsigned k = 0; k < set->len[i]; k++) {
            unsigned char c = (unsigned char)set->text[i][k];
            INVARIANT(c < 0x80 && !(c >= 'A' && c <= 'Z'));
        }
    }
}

static void
check_probe(const struct pattern *pattern, const struct literal_set *best)
{
    struct probe probe;
    struct slice subject;
    unsigned count = 0;
    INVARIANT(risk_bits(pattern) <= RISK_MAX_BITS);
    for (probe_init(&probe, pattern, best); probe_next(&probe, &subject); count++) {
        INVARIANT(subject.len > 0 && subject.len <= PROBE_LENGTH);
    }
    INVARIANT(count <= PROBE_UNITS);
}

static void
check_match(struct dialect *dialect, const struct literals *literals, struct slice subject)
{
    struct regex *regex;
    struct regex_error error;
    struct regex_scratch *scratch;
    if (dialect_compile(dialect, &regex, &error)) {
        return;
    }
    INVARIANT(!regex_scratch_create(&scratch));
    if (regex_search(regex, subject, scratch) == REGEX_MATCH) {
        INVARIANT(holds_one_of(subject, &literals->best));
        INVARIANT(holds_one_of(subject, &literals->second));
    }
    regex_scratch_destroy(scratch);
    regex_destroy(regex);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice subject = {(const char *)data, size}, rule = fuzz_take_line(&subject);
    struct regex_error error;
    struct dialect dialect;
    dialect_init(&dialect);
    if (!dialect_translate(&dialect, rule, 0, &error)) {
        struct literals literals;
        uint8_t packed[LITERALS_PACKED_MAX];
        literals_find(&dialect.pattern, &literals);
        check_set(&literals.best);
        check_set(&literals.second);
        INVARIANT(literals.best.count > 0 || literals.second.count == 0);
        INVARIANT(literals_pack(&literals, packed) <= sizeof packed);
        check_probe(&dialect.pattern, &literals.best);
        check_match(&dialect, &literals, subject);
    }
    dialect_fini(&dialect);
    return 0;
}
