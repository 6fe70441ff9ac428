/* The admission of an object that has nothing unusual about it, without the interpreter.
 *
 * Responsible for one object that lies in `room` as a whole (larger ones: large.c): encrypted under a fresh key, appended to a
 * segment of the vault together with its record, on the disk, and answered; and for handing over to the caller what is to become of it, in
 * a slot. The caller makes the row in the journal from that, afterwards; a crash before it finds the same in the segment.
 *
 * Not responsible for anything that could be refused: it looks before it begins, and leaves to the caller
 * (gateway.express) what is not plainly as it should be, whatever does not fit, and what the disk does not take.
 * Whether the same object was here before is told when the row is made: the answer would be the same.
 *
 * All cryptography is OpenSSL's, from the libcrypto of the system; without it there is no admission here. The formats are
 * those of privacy.vaultfile, privacy.segments and privacy.plainrow.
 */

#include "datapath.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/random.h>

enum {
    HEAD = 40,      /* salt, two lengths, nonce: of a record */
    GET_TAG = 0x10, /* EVP_CTRL_AEAD_GET_TAG */
    FIXED = 4 + 4 * 8 + ITEM_ID + OBJECT_ID + KEY + TAG, /* bytes of a row before what differs in length */
    PLACE = 4,      /* bytes of an object's id that say where in its segment it lies, in blocks */
    HUNGRY_MS = 100, /* to wait for room at most */
    NOT_OPEN = 1,   /* of the reasons in `closed`, the one that is there at the end */
};

static const uint8_t MAGIC[8] = "EWVAULT1";

/* ------------------------------------------------------------ libcrypto */

static struct {
    void *(*new_context)(void);
    void (*free_context)(void *);
    const void *(*aes_256_gcm)(void);
    const void *(*sha256)(void);
    int (*init)(void *, const void *, void *, const uint8_t *, const uint8_t *);
    int (*update)(void *, uint8_t *, int *, const uint8_t *, int);
    int (*final)(void *, uint8_t *, int *);
    int (*control)(void *, int, int, void *);
    uint8_t *(*hmac)(const void *, const void *, int, const uint8_t *, size_t, uint8_t *, unsigned *);
    unsigned long (*version)(void);
} crypto;

/* The version of libcrypto; 0: there is none. Call it once, before anything else of this file. */
uint64_t ew_crypto(void) {
    static const char *const names[] = {"libcrypto.so.3", "libcrypto.so.4", "libcrypto.so.1.1"};
    static const char *const symbols[] = {
        "EVP_CIPHER_CTX_new", "EVP_CIPHER_CTX_free", "EVP_aes_256_gcm", "EVP_sha256", "EVP_EncryptInit_ex",
        "EVP_EncryptUpdate", "EVP_EncryptFinal_ex", "EVP_CIPHER_CTX_ctrl", "HMAC", "OpenSSL_version_num",
    };
    void *library = NULL;
    for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++) library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) return 0;
    void *found[sizeof symbols / sizeof *symbols];
    _Static_assert(sizeof found == sizeof crypto, "one function for each name");
    for (size_t i = 0; i < sizeof found / sizeof *found; i++)
        if (!(found[i] = dlsym(library, symbols[i]))) return 0;
    memcpy(&crypto, found, sizeof crypto); /* POSIX: a function's address fits a pointer to an object */
    return crypto.version();
}

void ew_ciphers_free(struct ew_ciphers *ciphers) {
    if (!ciphers) return;
    crypto.free_context(ciphers->content), crypto.free_context(ciphers->mac), crypto.free_context(ciphers->row);
    free(ciphers);
}

/* The ciphers of one association; NULL: there is no memory. */
struct ew_ciphers *ew_ciphers_new(void) {
    struct ew_ciphers *const ciphers = calloc(1, sizeof *ciphers);
    if (!ciphers) return NULL;
    void **const all[3] = {&ciphers->content, &ciphers->mac, &ciphers->row};
    for (int i = 0; i < 3; i++) {
        *all[i] = crypto.new_context();
        if (!*all[i] || crypto.init(*all[i], crypto.aes_256_gcm(), NULL, NULL, NULL) != 1) {
            ew_ciphers_free(ciphers);
            return NULL;
        }
    }
    return ciphers;
}

/* AES-256-GCM (NIST SP 800-38D): `size` bytes and their tag to `out`. Return whether it worked. */
int ew_seal(void *context, struct ew_gcm with, const uint8_t *data, uint64_t size, uint8_t *out) {
    int count = 0, last = 0;
    if (size > INT32_MAX / 2 || with.bound_size > INT32_MAX / 2) return 0;
    if (crypto.init(context, NULL, NULL, with.key, with.nonce) != 1) return 0;
    if (crypto.update(context, NULL, &count, with.bound, (int)with.bound_size) != 1) return 0;
    count = 0;
    if (size && crypto.update(context, out, &count, data, (int)size) != 1) return 0;
    if ((uint64_t)count != size || crypto.final(context, out + count, &last) != 1 || last) return 0;
    return crypto.control(context, GET_TAG, TAG, out + size) == 1;
}

static const uint8_t NO_NONCE[NONCE]; /* a key of its own for each: nonces count its chunks */

/* The keyed digest of a data set (GMAC, NIST SP 800-38D, 3), by which the same content is known again. */
int ew_digest_begin(struct ew_conn *conn) {
    uint8_t key[KEY];
    unsigned length = 0;
    if (!crypto.hmac(crypto.sha256(), conn->store->content_key, KEY, (const uint8_t *)conn->sop_instance, (size_t)conn->instance_size, key, &length))
        return 0;
    return length == KEY && crypto.init(conn->ciphers->mac, NULL, NULL, key, NO_NONCE) == 1;
}

int ew_digest_some(struct ew_conn *conn, const uint8_t *data, uint64_t size) {
    int count = 0;
    return size <= INT32_MAX / 2 && crypto.update(conn->ciphers->mac, NULL, &count, data, (int)size) == 1;
}

int ew_digest_end(struct ew_conn *conn, uint8_t *digest) {
    int last = 0;
    return crypto.final(conn->ciphers->mac, digest, &last) == 1 && !last && crypto.control(conn->ciphers->mac, GET_TAG, TAG, digest) == 1;
}

int ew_randomly(uint8_t *out, size_t size) { return getrandom(out, size, 0) == (ssize_t)size; }

/* ------------------------------------------------------------ what is shared by all associations */

int ew_store_begin(struct ew_store *store) {
    pthread_condattr_t clock;
    int error = pthread_mutex_init(&store->lock, NULL);
    if (!error) error = pthread_condattr_init(&clock);
    if (!error) error = pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    if (!error) error = pthread_cond_init(&store->told, &clock);
    store->active = NULL;
    store->pending = 0;
    store->first = store->count = 0;
    for (store->spare = 0; store->spare < SLOTS; store->spare++) store->free[store->spare] = (uint16_t)store->spare;
    return error;
}

void ew_lock(struct ew_store *store) { pthread_mutex_lock(&store->lock); }

void ew_unlock(struct ew_store *store) {
    pthread_cond_broadcast(&store->told);
    pthread_mutex_unlock(&store->lock);
}

/* Wait until `enough` slots are ready, but no longer than `later_ms` from when one is, nor than `ms` for that one; nor
 * while somebody waits for room. Return how many are ready; -1: none, and somebody waits for room. */
int ew_wait(struct ew_store *store, int enough, int64_t ms, int64_t later_ms) {
    pthread_mutex_lock(&store->lock);
    for (int some = 0; some < 2; some++) {
        const int64_t end = now_ns(CLOCK_MONOTONIC) + (some ? later_ms : ms) * MS;
        const struct timespec until = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
        store->enough = some ? (uint32_t)enough : 1;
        while (store->count < store->enough && !store->starved && !(store->closed & NOT_OPEN))
            if (pthread_cond_timedwait(&store->told, &store->lock, &until)) break;
        if (!store->count) break;
    }
    store->enough = SLOTS + 1;
    const int count = store->count || !store->starved ? (int)store->count : -1;
    pthread_mutex_unlock(&store->lock);
    return count;
}

/* Take ready slots, in the order in which they became ready; return how many. */
int ew_drain(struct ew_store *store, uint16_t *out, int most) {
    pthread_mutex_lock(&store->lock);
    int taken = 0;
    for (; taken < most && store->count; taken++, store->count--) {
        out[taken] = store->ready[store->first];
        store->first = (store->first + 1) % SLOTS;
    }
    pthread_mutex_unlock(&store->lock);
    return taken;
}

/* Give back what was drained: the rows are where every reader looks. */
void ew_give(struct ew_store *store, const uint16_t *slots, int count) {
    pthread_mutex_lock(&store->lock);
    for (int i = 0; i < count; i++) {
        store->slots[slots[i]].log->busy--;
        store->free[store->spare++] = slots[i];
    }
    store->pending -= count;
    pthread_cond_broadcast(&store->told);
    pthread_mutex_unlock(&store->lock);
}

/* Wait until no record of a log waits for its row, or a slot is ready; return how many records wait. */
int ew_idle(struct ew_store *store, struct ew_log *log, int64_t ms) {
    const int64_t end = now_ns(CLOCK_MONOTONIC) + ms * MS;
    const struct timespec until = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
    pthread_mutex_lock(&store->lock);
    store->enough = 1;
    while (log->busy && !store->count)
        if (pthread_cond_timedwait(&store->told, &store->lock, &until)) break;
    const int busy = (int)log->busy;
    pthread_mutex_unlock(&store->lock);
    return busy;
}

static void ready(struct ew_store *store, uint16_t slot, int alone) {
    pthread_mutex_lock(&store->lock);
    if (alone) store->slots[slot].log->alone++;
    store->ready[(store->first + store->count++) % SLOTS] = slot;
    store->pending++;
    if (store->count == 1 || store->count == store->enough) pthread_cond_broadcast(&store->told);
    pthread_mutex_unlock(&store->lock);
}

/* Say that so many bytes are waited for; until when is said the first time. */
static void hungry(struct ew_store *store, int32_t size, struct timespec *until) {
    if (!until->tv_sec) {
        const int64_t end = now_ns(CLOCK_MONOTONIC) + HUNGRY_MS * MS;
        *until = (struct timespec){.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
    }
    if (store->starved >= size) return;
    store->starved = size;
    pthread_cond_broadcast(&store->told);
}

/* Have the disk looked at before `size` bytes go to a file of their own. Return whether they may. */
int ew_room(struct ew_store *store, uint64_t size) {
    struct timespec until = {0};
    int fits = 0, late = 0;
    pthread_mutex_lock(&store->lock);
    while (!store->closed && store->room >= 0) {
        fits = store->room >= (int64_t)size;
        if (fits) store->room -= (int64_t)size;
        if (fits || late) break;
        hungry(store, BLOCK, &until);
        late = pthread_cond_timedwait(&store->told, &store->lock, &until) != 0;
    }
    pthread_mutex_unlock(&store->lock);
    return fits;
}

/* Give a record its place: a slot and `length` bytes of the segment; if there is no room now, wait until there is. Return
 * whether there is one. */
static int place(struct ew_store *store, uint64_t length, uint16_t *slot, int64_t *at) {
    struct timespec until = {0};
    int fits = 0, late = 0;
    pthread_mutex_lock(&store->lock);
    for (;;) {
        struct ew_log *const log = store->active;
        if (!log || store->closed || log->failed || !log->end || store->room < 0) break;
        fits = log->end <= store->crowded && length <= log->size && log->end <= log->size - length &&
               store->room >= (int64_t)length && store->spare;
        if (fits) {
            *slot = store->free[--store->spare];
            store->slots[*slot].log = log;
            *at = (int64_t)log->end;
            log->end += length;
            log->busy++;
            store->room -= (int64_t)length;
        }
        if (fits || late) break;
        hungry(store, log->end <= store->crowded ? (int32_t)length : 0, &until); /* of one that is crowded the caller knows */
        late = pthread_cond_timedwait(&store->told, &store->lock, &until) != 0;
    }
    pthread_mutex_unlock(&store->lock);
    return fits;
}

/* Take it back: the record could not be written, and is none as far as the disk still does anything. */
static void displace(struct ew_store *store, uint16_t slot, uint8_t *block, int64_t at, int handle, int failed) {
    struct ew_log *const log = store->slots[slot].log;
    if (failed) {
        pthread_mutex_lock(&store->lock);
        log->failed = 1; /* after a failed sync nobody knows what the next one would tell */
        pthread_mutex_unlock(&store->lock);
        memset(block, 0, BLOCK);
        if (pwrite(handle, block, BLOCK, at) == BLOCK) fdatasync(handle);
    }
    pthread_mutex_lock(&store->lock);
    log->busy--;
    store->free[store->spare++] = slot;
    pthread_cond_broadcast(&store->told);
    pthread_mutex_unlock(&store->lock);
}

/* ------------------------------------------------------------ bytes */

static uint8_t *put(uint8_t *p, const void *data, uint64_t size) {
    if (size) memcpy(p, data, size);
    return p + size;
}
static uint8_t *put_le(uint8_t *p, uint64_t value, int bytes) {
    for (; bytes; bytes--, value >>= 8) *p++ = (uint8_t)value;
    return p;
}
static uint8_t *put_be(uint8_t *p, uint64_t value, int bytes) {
    while (bytes) *p++ = (uint8_t)(value >> 8 * --bytes);
    return p;
}
static uint8_t *put_uid(uint8_t *p, const char *uid, uint64_t size) {
    p = put(p, uid, size);
    if (size % 2) *p++ = 0;
    return p;
}
static uint64_t even(uint64_t size) { return size + size % 2; }
static uint64_t blocks(uint64_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

/* The file meta information (PS3.10, 7.1), ending where the data set begins. Return its length, 0 if there is no room. */
uint64_t ew_put_meta(const struct ew_conn *conn, const struct ew_kind *kind) {
    const uint64_t uid = even((uint64_t)conn->instance_size), group = kind->before_size + 8 + uid + kind->after_size;
    const uint64_t size = 128 + 4 + 12 + group;
    if (size > conn->headroom) return 0;
    uint8_t *p = conn->room - size;
    memset(p, 0, 128);
    p = put(p + 128, "DICM", 4);
    p = put(p, "\2\0\0\0UL\4\0", 8);
    p = put_le(p, group, 4);
    p = put(p, kind->before, kind->before_size);
    p = put(p, "\2\0\3\0UI", 6);
    p = put_le(p, uid, 2);
    p = put_uid(p, conn->sop_instance, (uint64_t)conn->instance_size);
    put(p, kind->after, kind->after_size);
    return size;
}

/* A C-STORE-RSP with Success (PS3.7, 9.3.1.2), in a PDU of its own. Return its length. */
static uint64_t put_answer(const struct ew_conn *conn, uint8_t *out) {
    const uint64_t sop_class = even((uint64_t)conn->class_size), instance = even((uint64_t)conn->instance_size);
    const uint64_t body = 8 + sop_class + 4 * 10 + 8 + instance;
    uint8_t *p = put(out, "\4\0", 2);
    p = put_be(p, body + 18, 4);
    p = put_be(p, body + 14, 4);
    *p++ = (uint8_t)conn->context;
    *p++ = IS_COMMAND | IS_LAST;
    p = put(p, "\0\0\0\0\4\0\0\0", 8);
    p = put_le(p, body, 4);
    p = put(p, "\0\0\2\0", 4);
    p = put_le(p, sop_class, 4);
    p = put_uid(p, conn->sop_class, (uint64_t)conn->class_size);
    p = put(p, "\0\0\0\1\2\0\0\0\1\200", 10);
    p = put(p, "\0\0\40\1\2\0\0\0", 8);
    p = put_le(p, (uint64_t)conn->message_id, 2);
    p = put(p, "\0\0\0\10\2\0\0\0\1\1", 10);
    p = put(p, "\0\0\0\11\2\0\0\0\0\0", 10);
    p = put(p, "\0\0\0\20", 4);
    p = put_le(p, instance, 4);
    return (uint64_t)(put_uid(p, conn->sop_instance, (uint64_t)conn->instance_size) - out);
}

/* ------------------------------------------------------------ one object */

static int same_uid(const struct ew_conn *conn, uint32_t tag, const char *uid, int32_t size) {
    for (int i = 0; i < conn->wanted_count && i < TAGS; i++) {
        if (conn->wanted[i] != tag || conn->value_size[i] == UINT32_MAX) continue;
        const uint8_t *const value = conn->room + conn->value_at[i];
        uint32_t length = conn->value_size[i];
        while (length && (value[length - 1] == 0 || value[length - 1] == ' ')) length--;
        return length == (uint32_t)size && !memcmp(value, uid, length);
    }
    return 0;
}

static uint32_t kept(const struct ew_conn *conn, int i) {
    return conn->value_size[i] < VALUE ? conn->value_size[i] : VALUE;
}

/* How long what is known of an object is; 0: too long. */
static uint32_t row_size(const struct ew_conn *conn, const struct ew_kind *kind) {
    uint64_t size = FIXED + kind->row_size + 1 + (uint64_t)conn->instance_size;
    for (int i = 0; i < conn->wanted_count && i < TAGS; i++)
        if (conn->value_size[i] != UINT32_MAX) size += 6 + kept(conn, i);
    return size <= ROW ? (uint32_t)size : 0;
}

/* What privacy.plainrow reads, but for what is known last. Return its length; 0: too long. */
uint32_t ew_put_row(const struct ew_conn *conn, const struct ew_kind *kind, uint8_t *out) {
    const uint32_t size = row_size(conn, kind);
    if (!size) return 0;
    int count = 0;
    uint8_t *p = put(out + FIXED, kind->row, kind->row_size);
    *p++ = (uint8_t)conn->instance_size;
    p = put(p, conn->sop_instance, (uint64_t)conn->instance_size);
    for (int i = 0; i < conn->wanted_count && i < TAGS; i++) {
        if (conn->value_size[i] == UINT32_MAX) continue;
        p = put_le(p, conn->wanted[i], 4);
        p = put_le(p, kept(conn, i), 2);
        p = put(p, conn->room + conn->value_at[i], kept(conn, i));
        count++;
    }
    out[0] = 'R', out[1] = 1, out[2] = 0, out[3] = (uint8_t)count;
    return size;
}

static void put_known_last(const struct ew_conn *conn, const struct ew_object *object, uint8_t *out) {
    uint8_t *p = put_le(out + 4, (uint64_t)conn->received_ns, 8);
    p = put_le(p, (uint64_t)(conn->received_ns + conn->store->budget_ns), 8);
    p = put_le(p, (uint64_t)now_ns(CLOCK_REALTIME), 8);
    p = put_le(p, object->size, 8);
    p = put(p, object->item_id, ITEM_ID);
    p = put(p, object->id, OBJECT_ID);
    p = put(p, object->key, KEY);
    put(p, object->digest, TAG);
}

/* Fill in who it is, of which the id says where it lies, and encrypt it into `out`. */
static int seal_object(struct ew_conn *conn, const struct ew_log *log, int64_t at, struct ew_object *object, uint64_t meta) {
    uint8_t fresh[ITEM_ID + OBJECT_ID + KEY + NONCE], bound[sizeof MAGIC + 9] = {0};
    if (!ew_randomly(fresh, sizeof fresh)) return 0;
    memcpy(object->item_id, fresh, ITEM_ID);
    memcpy(object->id, fresh + ITEM_ID, OBJECT_ID);
    put_be(put(object->id, log->name, NAME), (uint64_t)at / BLOCK + 1, PLACE);
    memcpy(object->key, fresh + ITEM_ID + OBJECT_ID, KEY);
    memcpy(object->nonce, fresh + ITEM_ID + OBJECT_ID + KEY, NONCE);
    if (!ew_digest_begin(conn) || !ew_digest_some(conn, conn->room, conn->filled) || !ew_digest_end(conn, object->digest)) return 0;
    memcpy(bound, MAGIC, sizeof MAGIC);
    bound[sizeof bound - 1] = 1; /* the first chunk is the last */
    const struct ew_gcm seal = {object->key, NO_NONCE, bound, sizeof bound};
    memcpy(conn->out, MAGIC, sizeof MAGIC);
    object->size = meta + conn->filled;
    return ew_seal(conn->ciphers->content, seal, conn->room - meta, object->size, conn->out + sizeof MAGIC);
}

/* The head of a record: who wrote it, two lengths, a nonce, and the row. */
static int seal_row(struct ew_conn *conn, const struct ew_slot *slot, const struct ew_object *object, int64_t at, uint64_t content) {
    uint8_t bound[SALT + 16 + TAG], *p = put(bound, slot->log->salt, SALT);
    p = put_le(p, (uint64_t)at, 8);
    p = put_le(p, content, 8);
    if (content) p = put(p, conn->out + content - TAG, TAG);
    const struct ew_gcm seal = {slot->log->key, object->nonce, bound, (uint64_t)(p - bound)};
    p = put(conn->head, slot->log->salt, SALT);
    p = put_le(p, slot->size + TAG, 4); /* ROW at most */
    p = put_le(p, content, 8);
    p = put(p, object->nonce, NONCE);
    if (!ew_seal(conn->ciphers->row, seal, slot->row, slot->size, p)) return 0;
    memset(p + slot->size + TAG, 0, BLOCK - HEAD - slot->size - TAG);
    return 1;
}

static int write_record(const struct ew_conn *conn, const struct ew_log *log, int64_t at, uint64_t content) {
    const uint64_t whole = blocks(content);
    if (whole) memset(conn->out + content, 0, whole - content);
    struct iovec parts[2] = {{conn->head, BLOCK}, {conn->out, whole}};
    ssize_t count;
    do count = pwritev(log->handle, parts, whole ? 2 : 1, at);
    while (count < 0 && errno == EINTR);
    return count == (ssize_t)(BLOCK + whole) && !ew_sync(log->sync, log->handle);
}

/* What all objects of this presentation context have in common, if what lies in `room` is plainly one that may be admitted
 * here; NULL: it is the caller's. */
const struct ew_kind *ew_kind_of(const struct ew_conn *conn) {
    const int number = conn->kind[conn->context & 255];
    const struct ew_kind *const kind = number ? conn->kinds + number - 1 : NULL;
    if (!kind || kind->class_size != (uint32_t)conn->class_size || memcmp(kind->sop_class, conn->sop_class, kind->class_size)) return NULL;
    if (!same_uid(conn, 0x00080016, conn->sop_class, conn->class_size)) return NULL;
    return same_uid(conn, 0x00080018, conn->sop_instance, conn->instance_size) ? kind : NULL;
}

/* Make the record of an object, and answer. Return as `ew_admit`. */
static int keep(struct ew_conn *conn, struct ew_object *object, const struct ew_kind *kind, uint8_t *row, uint32_t size) {
    struct ew_store *const store = conn->store;
    uint8_t said[2 * UID + 128];
    _Static_assert(HEAD + ROW + TAG <= BLOCK, "a row fits into the first block of its record");
    const uint64_t answer = put_answer(conn, said), meta = kind ? ew_put_meta(conn, kind) : 0;
    const uint64_t content = kind ? sizeof MAGIC + meta + conn->filled + TAG : 0;
    if ((kind && !meta) || blocks(content) > conn->out_size || (conn->max_length && answer - 6 > conn->max_length)) return OTHER;
    uint16_t number;
    int64_t at;
    if (!place(store, BLOCK + blocks(content), &number, &at)) return OTHER;
    struct ew_slot *const slot = &store->slots[number];
    int done = !kind || seal_object(conn, slot->log, at, object, meta);
    if (done) {
        slot->size = kind ? ew_put_row(conn, kind, slot->row) : size;
        if (!kind) memcpy(slot->row, row, size);
        put_known_last(conn, object, slot->row);
        done = slot->size && seal_row(conn, slot, object, at, content);
    }
    if (!done || !write_record(conn, slot->log, at, content)) {
        displace(store, number, conn->head, at, slot->log->handle, done);
        return OTHER;
    }
    ready(store, number, !content); /* before the answer: a peer that does not take it holds up nobody's segment */
    return ew_send(conn, said, answer);
}

/* Admit what lies in `room` as a whole, and answer. Return 0; OTHER: it is the caller's, and nothing was done; a code: it
 * was admitted, and could not be answered. */
int ew_admit(struct ew_conn *conn) {
    if (!conn->walked || !conn->filled || conn->filled > conn->small) return OTHER;
    const struct ew_kind *const kind = ew_kind_of(conn);
    if (!kind || !row_size(conn, kind)) return OTHER;
    struct ew_object object;
    return keep(conn, &object, kind, NULL, 0);
}

/* The same for an object that has its own file already: only its record is kept here. */
int ew_admit_record(struct ew_conn *conn, struct ew_object *object, uint8_t *row, uint32_t size) {
    return keep(conn, object, NULL, row, size);
}
