#include "regex.h"

#include <pthread.h>
#include <stdatomic.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "mem.h"

/* Byte mode for good: a pattern must not be able to switch to UTF, where PCRE2's JIT has missed
 * matches. */
#define COMPILE_OPTIONS (PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C)

/* PCRE2 starts the count anew at each start offset, so the worst case is this times the length of
 * the subject.  A harmless '.*x' counts each byte, and '.*x.*y' may do so for each x, hence more for
 * a long subject. */
#define MATCH_LIMIT 10000
#define MATCH_LIMIT_PER_BYTE 5
#define MATCH_LIMIT_BRIEF 250
/* JIT ignores these two.  The interpreter needs at most one frame for each count of the limit. */
#define DEPTH_LIMIT MATCH_LIMIT
#define HEAP_LIMIT_KIB (8 * 1024)
/* JIT's own 32 kB are not enough for '^(?:[a-z]|x)+$' on 2 kB. */
#define JIT_STACK_MIN (32 * 1024)
#define JIT_STACK_MAX (512 * 1024)

struct regex {
    pcre2_code *code;
    atomic_bool ready; /* for the first search: machine code was made, or cannot be */
};

struct regex_scratch {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_match_context *ranged; /* for regex_search_range */
    pcre2_jit_stack *stack; /* NULL where the library has no JIT */
};

static PCRE2_SPTR
bytes_of(struct slice text)
{
    return (PCRE2_SPTR)(text.len > 0 ? text.data : "");
}

static enum err
report_error(int code, size_t position, struct regex_error *error)
{
    if (code == PCRE2_ERROR_HEAP_FAILED) {
        return ERR_MEMORY;
    }
    error->position = position;
    error->message[0] = '\0';
    pcre2_get_error_message(code, (PCRE2_UCHAR *)error->message, sizeof error->message);
    return ERR_INVALID;
}

static uint32_t
compile_options(const struct regex_options *options)
{
    uint32_t bits = COMPILE_OPTIONS;
    bits |= options->caseless ? PCRE2_CASELESS : 0U;
    bits |= options->dotall ? PCRE2_DOTALL : 0U;
    bits |= options->line_begins_at_end ? PCRE2_ALT_CIRCUMFLEX : 0U;
    bits |= options->no_auto_possess ? PCRE2_NO_AUTO_POSSESS : 0U;
    bits |= options->by_range ? PCRE2_USE_OFFSET_LIMIT : 0U;
    return bits;
}

enum err
regex_compile(struct slice pattern, const struct regex_options *options, struct regex **out,
              struct regex_error *error)
{
    enum err err = ERR_MEMORY;
    int code = 0;
    PCRE2_SIZE position = 0;
    struct regex *regex = mem_zalloc(sizeof *regex);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (regex == NULL || context == NULL) {
        goto done;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    regex->code = pcre2_compile(bytes_of(pattern), pattern.len, compile_options(options), &code,
                                &position, context);
    if (regex->code == NULL) {
        err = report_error(code, position, error);
        goto done;
    }
    *out = regex;
    regex = NULL;
    err = ERR_OK;
done:
    pcre2_compile_context_free(context);
    regex_destroy(regex);
    return err;
}

void
regex_destroy(struct regex *regex)
{
    if (regex == NULL) {
        return;
    }
    pcre2_code_free(regex->code);
    mem_free(regex);
}

/* Writes into the code, so that one at a time may do it and nobody may search meanwhile. */
static void
make_ready(struct regex *regex)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    if (!atomic_load_explicit(&regex->ready, memory_order_relaxed)) {
        /* Without JIT (not built in, or no executable memory) the interpreter gives the same answers. */
        (void)pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
        atomic_store_explicit(&regex->ready, true, memory_order_release);
    }
    pthread_mutex_unlock(&mutex);
}

static enum regex_outcome
search(struct regex *regex, struct slice subject, size_t from, struct regex_scratch *scratch,
       pcre2_match_context *context)
{
    if (!atomic_load_explicit(&regex->ready, memory_order_acquire)) {
        make_ready(regex);
    }
    int rc =
        pcre2_match(regex->code, bytes_of(subject), subject.len, from, 0, scratch->data, context);
    if (rc >= 0) {
        return REGEX_MATCH;
    }
    return rc == PCRE2_ERROR_NOMATCH ? REGEX_NO_MATCH : REGEX_LIMIT;
}

static uint32_t
match_limit(size_t len)
{
    size_t limit = len * MATCH_LIMIT_PER_BYTE;
    return limit < MATCH_LIMIT ? MATCH_LIMIT : limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX;
}

enum regex_outcome
regex_search(struct regex *regex, struct slice subject, struct regex_scratch *scratch)
{
    if (subject.len > MATCH_LIMIT / MATCH_LIMIT_PER_BYTE) {
        pcre2_set_match_limit(scratch->context, match_limit(subject.len));
        enum regex_outcome outcome = search(regex, subject, 0, scratch, scratch->context);
        pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
        return outcome;
    }
    return search(regex, subject, 0, scratch, scratch->context);
}

enum regex_outcome
regex_search_range(struct regex *regex, struct slice subject, size_t first, size_t count,
                   enum regex_effort effort, struct regex_scratch *scratch)
{
    pcre2_set_offset_limit(scratch->ranged, first + count - 1);
    pcre2_set_match_limit(scratch->ranged,
                          effort == REGEX_BRIEF ? MATCH_LIMIT_BRIEF : match_limit(subject.len));
    return search(regex, subject, first, scratch, scratch->ranged);
}

/* Leaves the stack NULL where JIT is not built in. */
static enum err
create_stack(struct regex_scratch *scratch)
{
    uint32_t has_jit = 0;
    pcre2_config(PCRE2_CONFIG_JIT, &has_jit);
    if (!has_jit) {
        return ERR_OK;
    }
    scratch->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
    if (scratch->stack == NULL) {
        return ERR_MEMORY;
    }
    pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
    pcre2_jit_stack_assign(scratch->ranged, NULL, scratch->stack);
    return ERR_OK;
}

enum err
regex_scratch_create(struct regex_scratch **out)
{
    enum err err = ERR_MEMORY;
    struct regex_scratch *scratch = mem_zalloc(sizeof *scratch);
    if (scratch == NULL) {
        return ERR_MEMORY;
    }
    /* One pair of offsets: whether there is a match is all that is asked. */
    scratch->data = pcre2_match_data_create(1, NULL);
    scratch->context = pcre2_match_context_create(NULL);
    if (scratch->data == NULL || scratch->context == NULL) {
        goto fail;
    }
    pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
    pcre2_set_depth_limit(scratch->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(scratch->context, HEAP_LIMIT_KIB);
    scratch->ranged = pcre2_match_context_copy(scratch->context);
    if (scratch->ranged == NULL) {
        goto fail;
    }
    err = create_stack(scratch);
    if (err) {
        goto fail;
    }
    *out = scratch;
    return ERR_OK;
fail:
    regex_scratch_destroy(scratch);
    return err;
}

void
regex_scratch_destroy(struct regex_scratch *scratch)
{
    if (scratch == NULL) {
        return;
    }
    pcre2_match_data_free(scratch->data);
    pcre2_match_context_free(scratch->context);
    pcre2_match_context_free(scratch->ranged);
    pcre2_jit_stack_free(scratch->stack);
    mem_free(scratch);
}

static char library_version[64];
static pthread_once_t library_version_once = PTHREAD_ONCE_INIT;

static void
read_library_version(void)
{
    /* The longest answer so far has 17 bytes; a NULL asks for the size. */
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) <= (int)sizeof library_version) {
        pcre2_config(PCRE2_CONFIG_VERSION, library_version);
    }
}

const char *
regex_library_version(void)
{
    pthread_once(&library_version_once, read_library_version);
    return library_version;
}
