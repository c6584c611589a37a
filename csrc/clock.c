#include "clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#ifdef CLOCK_UPTIME_RAW
#define MONOTONIC CLOCK_UPTIME_RAW   /* macOS: what Python reads there */
#else
#define MONOTONIC CLOCK_MONOTONIC
#endif

#ifdef FORWARDER_FAULTS
static _Atomic int64_t frozen_ms = -1;

void
clock_set_ms(int64_t now_ms)
{
    frozen_ms = now_ms;
}
#endif

int64_t
clock_now_ms(void)
{
#ifdef FORWARDER_FAULTS
    int64_t frozen = frozen_ms;
    if (frozen >= 0) {
        return frozen;
    }
#endif
    struct timespec now;
    clock_gettime(MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

double
clock_wall_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The kernel's generator needs no seed and no lock, and gives parent and child of a fork different
 * numbers.  Without it two records could get one key, and the backend would drop the second:
 * better to end. */
static void
random_bytes(void *out, size_t len)
{
    if (getentropy(out, len) != 0) {
        perror("mitm-forwarder: getrandom");
        abort();
    }
}

uint64_t
clock_random(uint64_t bound)
{
    /* The smallest mask that covers bound.  A number above bound is drawn again, less than once on
     * average; taking the remainder instead would favour small numbers. */
    uint64_t mask = bound == 0 ? 0 : UINT64_MAX >> __builtin_clzll(bound);
    uint64_t number;
    do {
        random_bytes(&number, sizeof number);
        number &= mask;
    } while (number > bound);
    return number;
}

void
clock_uuid(char out[CLOCK_UUID_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char bytes[16];
    random_bytes(bytes, sizeof bytes);
    bytes[6] = (unsigned char)(0x40 | (bytes[6] & 0x0f));   /* version 4 */
    bytes[8] = (unsigned char)(0x80 | (bytes[8] & 0x3f));   /* the variant of RFC 9562 */
    char *to = out;
    for (size_t i = 0; i < sizeof bytes; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *to++ = '-';
        }
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 0x0f];
    }
    *to = '\0';
}
