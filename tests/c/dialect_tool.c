/* Answers what the core decides about patterns and subjects, for tests/test_dialect.py.
 *
 * Standard input has a line for each pattern: "FLAGS PATTERN [SUBJECT...]", flags in decimal (those
 * of pattern.h), the rest in hexadecimal, "-" where it is empty.  The answer is a line as well: ok
 * OUTCOMES TRANSLATION     a letter for each subject: M match, N no match, L a limit was hit
 *     refused POSITION MESSAGE */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dialect.h"
#include "mem.h"

static int
hex_value(char c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* In place. */
static struct slice
unhex(char *word)
{
    size_t len = strcmp(word, "-") == 0 ? 0 : strlen(word) / 2;
    for (size_t i = 0; i < len; i++) {
        word[i] = (char)(hex_value(word[2 * i]) << 4 | hex_value(word[2 * i + 1]));
    }
    return (struct slice){word, len};
}

static char
search(struct regex *regex, char *word, struct regex_scratch *scratch)
{
    switch (regex_search(regex, unhex(word), scratch)) {
    case REGEX_MATCH:
        return 'M';
    case REGEX_NO_MATCH:
        return 'N';
    default:
        return 'L';
    }
}

static void
answer(char *line, struct dialect *dialect, struct regex_scratch *scratch)
{
    char *rest = NULL;
    unsigned flags = (unsigned)strtoul(strtok_r(line, " \n", &rest), NULL, 10);
    struct slice rule = unhex(strtok_r(NULL, " \n", &rest));
    struct regex *regex = NULL;
    struct regex_error error;
    enum err err = dialect_translate(dialect, rule, flags, &error);
    if (!err) {
        err = dialect_compile(dialect, &regex, &error);
    }
    if (err == ERR_INVALID) {
        printf("refused %zu %s\n", error.position, error.message);
        return;
    }
    if (err) {
        printf("failed %s\n", err_text(err));
        exit(1);
    }
    printf("ok -");
    for (char *word; (word = strtok_r(NULL, " \n", &rest)) != NULL;) {
        putchar(search(regex, word, scratch));
    }
    printf(" %s\n", buf_string(&dialect->text));
    regex_destroy(regex);
}

int
main(void)
{
    char *line = NULL;
    size_t room = 0;
    struct dialect dialect;
    struct regex_scratch *scratch;
    if (regex_scratch_create(&scratch)) {
        return 1;
    }
    dialect_init(&dialect);
    while (getline(&line, &room, stdin) > 0) {
        answer(line, &dialect, scratch);
        fflush(stdout);
    }
    dialect_fini(&dialect);
    regex_scratch_destroy(scratch);
    free(line);
    return mem_live() != 0;
}
