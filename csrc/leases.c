#include "leases.h"

#include <string.h>

#include "clock.h"
#include "mem.h"

struct entry {
    struct entry *next; /* of the same bucket */
    struct link age;    /* of those that hold a lease, oldest first; not linked: holds none */
    uint64_t hash;
    char *key;
    size_t key_len;
    int64_t expires_ms;
    struct lease lease;
    bool asked;
    struct list waiting;
};

struct leases {
    struct list by_age;
    size_t count, max; /* of those that hold a lease */
    bool granted;
    uint64_t seed;
    size_t mask; /* buckets - 1; a power of two of them */
    struct entry *buckets[];
};

/* ---- the table ---- */

/* FNV-1a from a random start.  It only chooses the bucket: keys are compared byte by byte. */
static uint64_t
hash_key(const struct leases *leases, struct slice key)
{
    uint64_t hash = leases->seed;
    for (size_t i = 0; i < key.len; i++) {
        hash = (hash ^ (unsigned char)key.data[i]) * UINT64_C(0x100000001b3);
    }
    return hash ^ hash >> 32;
}

/* The link that points to the entry, or the NULL at the end of its bucket. */
static struct entry **
find(struct leases *leases, struct slice key)
{
    struct entry **place = &leases->buckets[hash_key(leases, key) & leases->mask];
    while (*place != NULL && ((*place)->key_len != key.len ||
                              memcmp((*place)->key, key.data, key.len) != 0)) {
        place = &(*place)->next;
    }
    return place;
}

static enum err
find_or_add(struct leases *leases, struct slice key, struct entry **out)
{
    struct entry **place = find(leases, key);
    if (*place != NULL) {
        *out = *place;
        return ERR_OK;
    }
    struct entry *entry = mem_zalloc(sizeof *entry);
    if (entry == NULL) {
        return ERR_MEMORY;
    }
    if ((entry->key = mem_copy(key.data, key.len)) == NULL) {
        mem_free(entry);
        return ERR_MEMORY;
    }
    link_init(&entry->age);
    list_init(&entry->waiting);
    entry->key_len = key.len;
    entry->hash = hash_key(leases, key);
    *place = entry;
    *out = entry;
    return ERR_OK;
}

static void
forget_lease(struct leases *leases, struct entry *entry)
{
    if (link_is_linked(&entry->age)) {
        link_remove(&entry->age);
        leases->count--;
        upstream_fini(&entry->lease.upstream);
        wire_id_fini(&entry->lease.user_id);
    }
}

/* An entry that holds no lease and that nobody asks for goes. */
static void
tidy(struct leases *leases, struct entry *entry)
{
    if (link_is_linked(&entry->age) || entry->asked) {
        return;
    }
    struct entry **place = &leases->buckets[entry->hash & leases->mask];
    while (*place != entry) {
        place = &(*place)->next;
    }
    *place = entry->next;
    mem_free_secret(entry->key, entry->key_len);
    mem_free(entry);
}

enum err
leases_create(size_t max, struct leases **out)
{
    size_t buckets = 1, size;
    while (buckets < max && buckets < SIZE_MAX / 2) {
        buckets *= 2;
    }
    if (!size_mul(buckets, sizeof(struct entry *), &size) ||
        !size_add(size, sizeof(struct leases), &size)) {
        return ERR_LIMIT;
    }
    struct leases *leases = mem_zalloc(size);
    if (leases == NULL) {
        return ERR_MEMORY;
    }
    list_init(&leases->by_age);
    leases->max = max;
    leases->mask = buckets - 1;
    leases->seed = clock_random(UINT64_MAX);
    *out = leases;
    return ERR_OK;
}

void
leases_destroy(struct leases *leases)
{
    if (leases == NULL) {
        return;
    }
    for (size_t i = 0; i <= leases->mask; i++) {
        for (struct entry *entry; (entry = leases->buckets[i]) != NULL;) {
            assert(list_is_empty(&entry->waiting));
            forget_lease(leases, entry);
            entry->asked = false;
            tidy(leases, entry);
        }
    }
    mem_free(leases);
}

enum err
leases_append_key(struct buf *out, struct slice token, struct slice url)
{
    const char *authority = memmem(url.data, url.len, "://", 3);
    size_t len = url.len;
    if (authority != NULL) {
        const char *path = memchr(authority + 3, '/', url.len - (size_t)(authority + 3 - url.data));
        len = path != NULL ? (size_t)(path - url.data) : url.len;
    }
    /* A blank is in no URL. */
    enum err err = buf_append(out, url.data, len);
    if (!err) {
        err = buf_append_char(out, ' ');
    }
    return err ? err : buf_append_slice(out, token);
}

/* ---- leases ---- */

bool
leases_are_granted(const struct leases *leases)
{
    return leases->granted || leases->count > 0;
}

const struct lease *
leases_get(struct leases *leases, struct slice key)
{
    struct entry *entry = *find(leases, key);
    if (entry == NULL || !link_is_linked(&entry->age)) {
        return NULL;
    }
    if (clock_now_ms() < entry->expires_ms) {
        return &entry->lease;
    }
    forget_lease(leases, entry);
    tidy(leases, entry);
    return NULL;
}

static enum err
copy_lease(const struct lease *from, struct lease *to)
{
    struct lease copy = {.reason = from->reason, .user_id = {.kind = WIRE_ID_NONE}};
    memcpy(copy.message, from->message, sizeof copy.message);
    enum err err = wire_id_copy(&from->user_id, &copy.user_id);
    if (!err && from->reason == REASON_NONE) {
        err = upstream_copy(&from->upstream, &copy.upstream);
    }
    if (err) {
        wire_id_fini(&copy.user_id);
        return err;
    }
    *to = copy;
    return ERR_OK;
}

static void
make_room(struct leases *leases)
{
    if (leases->count == leases->max) {
        struct entry *oldest = LIST_ENTRY(leases->by_age.head.next, struct entry, age);
        forget_lease(leases, oldest);
        tidy(leases, oldest);
    }
}

enum err
leases_put(struct leases *leases, struct slice key, const struct lease *lease, int64_t duration_ms)
{
    struct entry *entry;
    struct lease copy;
    leases_drop(leases, key);
    leases->granted = duration_ms > 0;
    if (duration_ms <= 0 || leases->max == 0) {
        return ERR_OK;
    }
    enum err err = copy_lease(lease, &copy);
    if (err) {
        return err;
    }
    make_room(leases);
    if ((err = find_or_add(leases, key, &entry))) {
        upstream_fini(&copy.upstream);
        wire_id_fini(&copy.user_id);
        return err;
    }
    entry->lease = copy;
    entry->expires_ms =
        clock_now_ms() + (duration_ms < LEASE_MAX_MS ? duration_ms : LEASE_MAX_MS);
    list_push_back(&leases->by_age, &entry->age);
    leases->count++;
    return ERR_OK;
}

void
leases_drop(struct leases *leases, struct slice key)
{
    struct entry *entry = *find(leases, key);
    if (entry != NULL) {
        forget_lease(leases, entry);
        tidy(leases, entry);
    }
}

/* ---- asking once ---- */

enum err
leases_ask(struct leases *leases, struct slice key, struct list **waiting)
{
    struct entry *entry;
    enum err err = find_or_add(leases, key, &entry);
    if (err) {
        return err;
    }
    *waiting = entry->asked ? &entry->waiting : NULL;
    entry->asked = true;
    return ERR_OK;
}

void
leases_answered(struct leases *leases, struct slice key, struct list *waiting)
{
    struct entry *entry = *find(leases, key);
    if (entry == NULL) {
        return;
    }
    for (struct link *link; (link = list_take_front(&entry->waiting)) != NULL;) {
        list_push_back(waiting, link);
    }
    entry->asked = false;
    tidy(leases, entry);
}
