/* Runs a libFuzzer entry over files and directories of inputs, for compilers that have no libFuzzer
 * and for every test run: `replay_url tests/fuzz/corpus/url`.  An input that breaks an invariant
 * aborts; a leak is a failure, too. */
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "mem.h"

/* Far above what a fuzzer makes. */
#define INPUT_MAX (1024 * 1024)

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned inputs;

static int
replay_file(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    static uint8_t data[INPUT_MAX];
    (void)info, (void)ftw;
    if (type != FTW_F) {
        return 0;
    }
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return -1;
    }
    size_t size = fread(data, 1, sizeof data, file);
    bool complete = feof(file) && !ferror(file);
    fclose(file);
    if (!complete) {
        fprintf(stderr, "%s: cannot be read, or too large\n", path);
        return -1;
    }
    /* A copy of exactly this size, so that AddressSanitizer sees a byte read beyond it. */
    uint8_t *copy = mem_alloc(size);
    if (copy == NULL) {
        abort();
    }
    for (size_t i = 0; i < size; i++) {
        copy[i] = data[i];
    }
    LLVMFuzzerTestOneInput(copy, size);
    mem_free(copy);
    inputs++;
    return 0;
}

int
main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (nftw(argv[i], replay_file, 8, FTW_PHYS) != 0) {
            fprintf(stderr, "%s: not replayed\n", argv[i]);
            return 1;
        }
    }
    if (inputs == 0 || mem_live() != 0) {
        fprintf(stderr, "%u inputs, %zu blocks left\n", inputs, mem_live());
        return 1;
    }
    printf("%u inputs\n", inputs);
    return 0;
}
