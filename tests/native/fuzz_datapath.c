/* Throws streams of PDUs, mostly broken, at the data path: `fuzz_datapath SECONDS [SEED]`. Compiled with it, sanitized.
 *
 * Each stream is sent three times, in other pieces and with other room: what is taken of it must be the same, nothing
 * may be written outside the memory that was given, and what was not taken must still be there. A fourth time what is
 * ordinary is admitted (admission.c; large.c, compiled beside this): as many messages are taken, each is answered, its slot
 * comes back, and no file stays but those of what was admitted.
 */
#define _GNU_SOURCE
#include "../../src/edgeward/native/datapath.c"
#include "../../src/edgeward/native/admission.c"
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <dirent.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

static uint64_t state;
static uint32_t rnd(uint32_t below) {
    if (!below) return 0;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)((state >> 20) % below);
}

enum { STREAM = 60000, AHEAD = 4096, GUARD = 64 };
static uint8_t stream[STREAM + 70000];
static size_t size;

static void append(const void *data, size_t count) { memcpy(stream + size, data, count), size += count; }
static void append32(uint32_t v) { uint8_t b[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v}; append(b, 4); }

static size_t element(uint8_t *p, uint16_t number, const void *value, uint32_t length) {
    const uint8_t head[8] = {0, 0, (uint8_t)number, (uint8_t)(number >> 8), (uint8_t)length, (uint8_t)(length >> 8), 0, 0};
    memcpy(p, head, 8), memcpy(p + 8, value, length);
    return 8 + length;
}

static void pdu(int context, int control, const uint8_t *data, uint32_t count) {
    uint8_t head[6] = {4, 0, 0, 0, 0, 0};
    append(head, 2), append32(count + 6), append32(count + 2);
    head[0] = (uint8_t)context, head[1] = (uint8_t)control;
    append(head, 2), append(data, count);
}

static const char CLASS[] = "1.2.840.10008.5.1.4.1.1.2", INSTANCE[] = "1.2.3.4.5";

static uint32_t named(uint8_t *p, uint16_t number, const char *uid) {
    const uint8_t size = (uint8_t)(strlen(uid) + strlen(uid) % 2), head[8] = {8, 0, (uint8_t)number, 0, 'U', 'I', size, 0};
    memcpy(p, head, 8), memset(p + 8, 0, size), memcpy(p + 8, uid, strlen(uid));
    return 8u + size;
}

static uint32_t data_set(uint8_t *p, uint32_t room) {
    uint32_t n = 0;
    if (rnd(2) && room > 600) n += named(p + n, 0x16, CLASS), n += named(p + n, 0x18, rnd(9) ? INSTANCE : CLASS);
    const char *const vrs = "OBUISQUNOWLOUSPN";
    while (n + 600 < room && (!n || rnd(12))) {
        if (n && !rnd(6)) break;
        const char *vr = vrs + 2 * rnd(8);
        const int is_long = vr_is((const uint8_t *)vr, "OBSQUNOW");
        const uint32_t length = rnd(20) ? rnd(rnd(4) ? 40 : 500) : rnd(3) ? UNDEFINED : rnd(1000000);
        const uint16_t group = rnd(30) ? 8 : rnd(2) ? 0xFFFE : (uint16_t)rnd(65536), number = rnd(9) ? (uint16_t)rnd(32) : 0xE000;
        const uint8_t head[8] = {(uint8_t)group, (uint8_t)(group >> 8), (uint8_t)number, (uint8_t)(number >> 8), (uint8_t)vr[0], (uint8_t)vr[1], is_long ? 0 : (uint8_t)length, is_long ? 0 : (uint8_t)(length >> 8)};
        memcpy(p + n, head, 8), n += 8;
        if (is_long) for (int i = 0; i < 4; i++) p[n++] = (uint8_t)(length >> 8 * i);
        for (uint32_t i = 0; i < length && i < 500; i++) p[n++] = (uint8_t)rnd(256);
    }
    return n;
}

static void build(void) {
    static uint8_t body[STREAM];
    size = 0;
    for (uint32_t messages = 1 + rnd(3); messages; messages--) {
        const uint8_t store[2] = {1, 0}, id[2] = {(uint8_t)rnd(256), 0}, type[2] = {0, 0};
        uint8_t command[400];
        size_t n = element(command, 0x0002, CLASS, sizeof CLASS - 1);
        n += element(command + n, 0x0100, store, 2), n += element(command + n, 0x0110, id, 2);
        n += element(command + n, 0x0800, type, 2), n += element(command + n, 0x1000, INSTANCE, sizeof INSTANCE - 1);
        pdu(1, 3, command, (uint32_t)n);
        uint32_t left = data_set(body, 1 + rnd(rnd(3) ? 4000 : STREAM / 4)), at = 0;
        do {
            const uint32_t piece = rnd(3) ? left : rnd(left + 1);
            pdu(1, piece == left ? 2 : 0, body + at, piece);
            at += piece, left -= piece;
        } while (left && size < STREAM);
    }
    for (uint32_t damage = rnd(4); damage && size > 1; damage--) {
        const uint32_t at = rnd((uint32_t)size);
        if (rnd(3)) stream[at] = (uint8_t)(rnd(2) ? rnd(256) : stream[at] ^ (1u << rnd(8)));
        else if (rnd(2)) size = at + 1;
        else memmove(stream + at, stream + at + 1, size - at - 1), size--;
    }
}

struct outcome { uint64_t hash, taken; int code, messages; };

static uint64_t mix(uint64_t hash, const uint8_t *p, uint64_t count) {
    while (count--) hash = (hash ^ *p++) * 1099511628211u;
    return hash;
}

static struct ew_store *store;
static struct ew_log log_file;
static uint64_t admitted, long_ones;
static char vault[] = "/tmp/fuzz-datapath-XXXXXX";

/* Make, or empty and remove, the folders of the vault's files. Return how many files there were. */
static int folders(int make) {
    int count = 0;
    for (int number = 0; number < 256; number++) {
        char path[300], name[600];
        snprintf(path, sizeof path, "%s/%02x", vault, number);
        if (make) { assert(!mkdir(path, 0700)); continue; }
        DIR *const folder = opendir(path);
        assert(folder);
        for (struct dirent *one; (one = readdir(folder));) {
            if (one->d_name[0] == '.') continue;
            snprintf(name, sizeof name, "%s/%s", path, one->d_name);
            assert(!unlink(name)), count++;
        }
        closedir(folder), assert(!rmdir(path));
    }
    return count;
}

static void open_store(void) {
    store = calloc(1, sizeof *store);
    assert(store && ew_crypto() && !ew_store_begin(store));
    assert((log_file.handle = memfd_create("log", 0)) >= 0 && !ftruncate(log_file.handle, 1 << 20));
    log_file.sync = calloc(1, sizeof *log_file.sync);
    assert(log_file.sync && !ew_sync_begin(log_file.sync));
    log_file.size = 1 << 20, store->active = &log_file, store->crowded = 1 << 20;
}

/* Empty the slots as the caller does. Return how many there were. */
static int emptied(void) {
    uint16_t numbers[SLOTS];
    const int count = ew_drain(store, numbers, SLOTS);
    for (int i = 0; i < count; i++) {
        const struct ew_slot *const slot = &store->slots[numbers[i]];
        long_ones += log_file.alone, log_file.alone = 0;
        assert(slot->log == &log_file && slot->size > 112 && slot->size <= ROW && slot->row[0] == 'R');
    }
    ew_give(store, numbers, count);
    return count;
}

static struct outcome play(int admitting) {
    int ends[2];
    assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    const int wide = 1 << 20, slowly = !rnd(8);
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &wide, sizeof wide);
    struct outcome out = {.hash = 1469598103934665603u};
    const uint32_t room = 1 + rnd(rnd(2) ? 200 : 40000);
    const uint32_t headroom = admitting && rnd(4) ? 600 : 0;
    const uint32_t chunk = room + (headroom ? rnd(headroom) : 0); /* of an object that goes to a file of its own */
    uint8_t *const ahead = malloc(AHEAD), *const all = malloc(headroom + chunk), *const space = all + headroom; /* exactly so much: the sanitizer is the guard */
    const struct ew_kind kind = {CLASS, (const uint8_t *)"before", (const uint8_t *)"after", (const uint8_t *)"row", rnd(9) ? sizeof CLASS - 1 : 3, 6, 5, 3};
    const uint64_t out_size = rnd(9) ? 48 * 1024 : 4096;
    uint8_t *const head = malloc(BLOCK), *const sealed = aligned_alloc(BLOCK, out_size);
    struct ew_large *const large = calloc(1, sizeof *large);
    const int32_t stop = 0;
    uint64_t answered = 0, expected = 0;
    struct ew_conn *const conn = calloc(1, sizeof *conn);
    conn->ahead = ahead, conn->ahead_size = AHEAD, conn->handle = ends[0], conn->limit = 30000;
    conn->idle_ms = conn->pdu_ms = 5000, conn->wanted_count = 3;
    conn->wanted[0] = 0x00080005, conn->wanted[1] = 0x00080016, conn->wanted[2] = 0x00080018;
    conn->syntax[1] = WALK_EXPLICIT;
    if (admitting) {
        log_file.end = BLOCK, store->room = rnd(9) ? 64 << 20 : rnd(99) ? -1 : 9000, store->closed = !rnd(20);
        conn->store = store, conn->ciphers = ew_ciphers_new(), conn->kinds = &kind, conn->kind[1] = 1;
        conn->head = head, conn->out = sealed, conn->out_size = out_size, conn->stop = &stop;
        conn->headroom = headroom, conn->small = 40000, conn->max_length = rnd(9) ? 0 : 30;
        assert(conn->ciphers);
        large->root = rnd(50) ? vault : "/nowhere", large->chunk = chunk, large->handle = -1;
        conn->large = slowly ? NULL : large; /* it waits for what is to come, and nobody else sends */
    }
    size_t sent = 0;
    for (int turns = 0;; turns++) {
        assert(turns < 1000000);
        if (sent == size) shutdown(ends[1], SHUT_WR), sent++;
        if (sent < size) {
            const size_t piece = slowly ? 1 + rnd(rnd(2) ? 300 : 20000) : size, left = size - sent;
            const ssize_t did = send(ends[1], stream + sent, piece < left ? piece : left, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (did > 0) sent += (size_t)did;
            if (sent == size && conn->large) shutdown(ends[1], SHUT_WR), sent++;
        }
        conn->patience_ms = sent > size ? 0 : 1;
        conn->room = conn->begun ? space : NULL, conn->room_size = room;
        const int code = ew_take(conn);
        if (admitting && conn->store) {
            uint8_t said[4096];
            assert(emptied() == conn->admitted && !log_file.busy && !store->pending && store->spare == SLOTS);
            out.messages += conn->admitted, admitted += (uint64_t)conn->admitted, expected += (uint64_t)conn->admitted;
            const ssize_t got = recv(ends[1], said, sizeof said, MSG_DONTWAIT);
            if (got > 0) answered += (uint64_t)got;
            assert(large->handle < 0 || code == FULL || code == MESSAGE || code == OTHER);
            if (large->index) assert(conn->room == space - large->meta && conn->filled <= chunk && large->pending <= out_size);
        }
        assert(conn->at <= conn->end && conn->end <= AHEAD && conn->filled <= chunk && conn->size <= conn->limit);
        if (admitting) { /* what the library leaves is the caller's to its end */
            ew_large_drop(large);
            conn->store = code == FULL ? NULL : store;
        }
        if (code == FULL || code == MESSAGE) {
            if (!admitting) out.hash = mix(out.hash, space, conn->filled);
            if (code == FULL && !conn->filled && !admitting) break;
            if (code == MESSAGE) {
                out.messages++;
                out.hash = mix(out.hash, (const uint8_t *)conn->sop_instance, (uint64_t)conn->instance_size);
                if (conn->walked && conn->room == space)
                    for (int i = 0; i < 3; i++) assert(conn->value_size[i] == UNDEFINED || (uint64_t)conn->value_at[i] + conn->value_size[i] <= conn->filled);
            }
            conn->filled = 0;
        } else if (code != WAIT && code != COMMAND) {
            out.code = code;
            if (conn->begun && !admitting) out.hash = mix(out.hash, space, conn->filled);
            const int within = conn->pdu_left && !conn->begun; /* known without a look at what follows */
            if (code == OTHER && !within) out.hash = mix(out.hash, conn->ahead + conn->at, 1); /* left for the other reader */
            break;
        }
    }
    if (admitting) ew_ciphers_free(conn->ciphers);
    assert(!expected || answered == expected * (answered / expected)); /* one as long as the other */
    free(ahead), free(all), free(head), free(sealed), free(large), free(conn), close(ends[0]), close(ends[1]);
    return out;
}

int main(int count, char **words) {
    const double seconds = count > 1 ? atof(words[1]) : 2;
    state = count > 2 ? strtoull(words[2], NULL, 10) | 1 : 88172645463325252u;
    open_store();
    assert(mkdtemp(vault));
    folders(1);
    uint64_t rounds = 0, whole = 0, others = 0;
    for (const int64_t end = now_ns(CLOCK_MONOTONIC) + (int64_t)(seconds * 1e9); now_ns(CLOCK_MONOTONIC) < end; rounds++) {
        build();
        const struct outcome first = play(0), last = play(1);
        if (last.code != first.code || last.messages != first.messages) {
            fprintf(stderr, "round %llu, admitting: %d/%d messages, code %d/%d\n", (unsigned long long)rounds, first.messages, last.messages, first.code, last.code);
            return 1;
        }
        for (int again = 0; again < 2; again++) {
            const struct outcome next = play(0);
            if (next.hash != first.hash || next.code != first.code || next.messages != first.messages) {
                fprintf(stderr, "round %llu: %d/%d messages, code %d/%d\n", (unsigned long long)rounds, first.messages, next.messages, first.code, next.code);
                return 1;
            }
        }
        whole += (uint64_t)first.messages, others += first.code == OTHER;
    }
    const unsigned long long files = (unsigned long long)folders(0);
    assert(files == long_ones && !rmdir(vault));
    printf("%llu streams, %llu messages, %llu handed on, %llu admitted, %llu of them in files\n", (unsigned long long)rounds, (unsigned long long)whole, (unsigned long long)others, (unsigned long long)admitted, files);
    close(log_file.handle), free(log_file.sync), free(store);
    return 0;
}
