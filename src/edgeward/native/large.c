/* An object of more than a chunk that has nothing unusual about it: taken in, encrypted and written while it arrives.
 *
 * Responsible for its own file in the vault: chunks as privacy.vaultfile has them, past the page cache, in the memory of
 * two chunks whatever its size. The file and its name are on the disk before its record is appended to a segment
 * (admission.c), and that before the answer: a file without a record was answered to nobody, and the next start removes it.
 *
 * Not responsible for whatever is not plain: it then stops where it is, and the caller (gateway.express) goes on. He
 * finds the chunks that were written in the file, and those bytes of the next one that arrived in `room`.
 */

#include "datapath.h"
#include <stdio.h>

enum {
    STEP = 8 << 20, /* bytes of room that a file is given in one go */
};

static const uint8_t MAGIC[8] = "EWVAULT1";

static uint64_t blocks(uint64_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

/* Leave nothing of it behind. */
void ew_large_drop(struct ew_large *large) {
    if (large->handle >= 0) {
        close(large->handle);
        unlink(large->path);
    }
    large->handle = -1;
    large->index = 0;
}

/* ------------------------------------------------------------ the file */

static int sync_folder(struct ew_large *large) {
    char folder[PATH];
    const size_t end = (size_t)(strrchr(large->path, '/') - large->path);
    memcpy(folder, large->path, end);
    folder[end] = 0;
    const int handle = open(folder, O_RDONLY | O_CLOEXEC);
    if (handle < 0) return 0;
    const int done = !fsync(handle);
    close(handle);
    return done;
}

/* Make the file; not through the page cache, or not at all. */
static int make(struct ew_large *large) {
    static const char digits[] = "0123456789abcdef";
    char name[2 * OBJECT_ID + 1];
    for (int i = 0; i < OBJECT_ID; i++) {
        name[2 * i] = digits[large->object.id[i] >> 4];
        name[2 * i + 1] = digits[large->object.id[i] & 15];
    }
    name[2 * OBJECT_ID] = 0;
    const int size = snprintf(large->path, PATH, "%s/%.2s/%s.ew", large->root, name, name);
    if (size < 0 || size >= PATH) return 0;
    large->handle = open(large->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_DIRECT, 0600);
    if (large->handle >= 0) return 1;
    if (errno != EEXIST) unlink(large->path); /* some file systems make it before they refuse */
    return 0;
}

/* Where the file will end, if the value that the data set is in is its last; 0: nobody knows. */
static uint64_t expected(const struct ew_large *large, uint64_t size) {
    if (!large->walk.skip || large->walk.depth) return 0;
    const uint64_t plain = large->object.size + size + large->walk.skip;
    return sizeof MAGIC + plain + (plain + large->chunk - 1) / large->chunk * TAG;
}

/* Write whole blocks of `out`, in room that the file has; `end`: where it is expected to end. Room that it does not need
 * would have to be given back. */
static int write_blocks(struct ew_conn *conn, uint64_t size, uint64_t end) {
    struct ew_large *const large = conn->large;
    if (large->written + size > large->reserved) {
        const uint64_t most = large->written + size + STEP, upto = end && blocks(end) < most ? blocks(end) : most;
        const uint64_t step = (upto < large->written + size ? large->written + size : upto) - large->written;
        if (!ew_room(conn->store, step)) return 0;
        if (fallocate(large->handle, 0, (off_t)large->written, (off_t)step) && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) return 0;
        large->reserved = large->written + step;
    }
    for (uint64_t done = 0; done < size;) {
        const ssize_t count = pwrite(large->handle, conn->out + done, size - done, (off_t)(large->written + done));
        if (count > 0 && (uint64_t)count % BLOCK == 0) done += (uint64_t)count;
        else if (count >= 0 || errno != EINTR) return 0;
    }
    large->written += size;
    return 1;
}

/* Encrypt the chunk that lies in `room`, `before` bytes in front of it included, and write what is whole blocks of it. */
static int put_chunk(struct ew_conn *conn, uint64_t before, int final) {
    struct ew_large *const large = conn->large;
    struct ew_walker *const walk = &large->walk;
    uint8_t bound[sizeof MAGIC + 9], nonce[NONCE] = {0};
    const uint64_t size = before + conn->filled;
    if (large->fed < conn->filled && !ew_walk_some(conn, walk, conn->room + large->fed, conn->filled - large->fed)) return 0;
    large->fed = conn->filled;
    if (final && !ew_walk_end(walk)) return 0;
    memcpy(bound, MAGIC, sizeof MAGIC);
    for (int i = 0; i < 8; i++) bound[sizeof MAGIC + i] = nonce[NONCE - 8 + i] = (uint8_t)(large->index >> 8 * (7 - i));
    bound[sizeof MAGIC + 8] = (uint8_t)final;
    const struct ew_gcm seal = {large->object.key, nonce, bound, sizeof bound};
    const uint64_t end = large->pending + size + TAG;
    if (blocks(end) > conn->out_size) return 0;
    if (large->seal) {
        if (!large->seal(conn->room - before, size, before, large->pending, final)) return 0;
    } else {
        if (!ew_seal(conn->ciphers->content, seal, conn->room - before, size, conn->out + large->pending)) return 0;
        if (!ew_digest_some(conn, conn->room, conn->filled)) return 0;
        if (final && !ew_digest_end(conn, large->digest)) return 0;
    }
    const uint64_t whole = final ? blocks(end) : end / BLOCK * BLOCK;
    if (final) memset(conn->out + end, 0, whole - end);
    if (!final && large->handle < 0 && !make(large)) return 0;
    if (!write_blocks(conn, whole, final ? large->written + whole : expected(large, size))) return 0;
    large->object.size += size;
    large->pending = final ? end : end - whole;
    if (!final) memmove(conn->out, conn->out + whole, large->pending);
    return 1;
}

/* ------------------------------------------------------------ one object */

/* Whether what lies in `room`, and is not all of it, is plainly the beginning of an ordinary object. */
static int begin(struct ew_conn *conn) {
    struct ew_large *const large = conn->large;
    const int syntax = conn->syntax[conn->context & 255];
    large->index = large->pending = large->written = large->reserved = 0;
    large->handle = -1;
    if ((syntax != WALK_EXPLICIT && syntax != WALK_IMPLICIT) || !conn->filled) return 0;
    ew_walk_begin(conn, &large->walk, syntax == WALK_IMPLICIT);
    if (!ew_walk_some(conn, &large->walk, conn->room, conn->filled)) return 0;
    large->fed = conn->filled;
    const struct ew_kind *const kind = ew_kind_of(conn);
    if (!kind) return 0;
    large->meta = ew_put_meta(conn, kind);
    large->row_size = ew_put_row(conn, kind, large->row);
    if (!large->meta || !large->row_size || large->meta + conn->filled > large->chunk) return 0;
    struct ew_object *const object = &large->object;
    uint8_t fresh[ITEM_ID + OBJECT_ID + KEY + NONCE];
    if (!ew_randomly(fresh, sizeof fresh) || (!large->seal && !ew_digest_begin(conn))) return 0;
    memcpy(object->item_id, fresh, ITEM_ID);
    memcpy(object->id, fresh + ITEM_ID, OBJECT_ID);
    memcpy(object->key, fresh + ITEM_ID + OBJECT_ID, KEY);
    memcpy(object->nonce, fresh + ITEM_ID + OBJECT_ID + KEY, NONCE);
    memcpy(large->key, object->key, KEY);
    memcpy(conn->out, MAGIC, sizeof MAGIC);
    object->size = 0;
    large->pending = sizeof MAGIC;
    return 1;
}

/* Let the file end at `length`, within the last block that was written, of which `out` has the content. The file system
 * would read that block from the disk to clear the rest of it, if it came past the page cache only. */
static int cut(struct ew_large *large, const uint8_t *out, uint64_t length) {
    const uint64_t rest = length % BLOCK;
    const int flags = rest ? fcntl(large->handle, F_GETFL) : -1;
    if (flags >= 0 && !fcntl(large->handle, F_SETFL, flags & ~O_DIRECT))
        (void)!pwrite(large->handle, out + blocks(large->pending) - BLOCK, BLOCK, (off_t)(length - rest));
    return ftruncate(large->handle, (off_t)length);
}

/* The end of it is in `room`: make it durable, and answer. */
static int end(struct ew_conn *conn, uint64_t before) {
    struct ew_large *const large = conn->large;
    if (!put_chunk(conn, before, 1)) return OTHER;
    memcpy(large->object.digest, large->digest, TAG);
    const uint64_t length = large->written - blocks(large->pending) + large->pending;
    if (cut(large, conn->out, length) || fdatasync(large->handle)) return OTHER;
    return ew_admit_record(conn, &large->object, large->row, large->row_size);
}

/* Go on with a data set of which `room` is full. Return 0: it was admitted; FULL, MESSAGE, OTHER: it is the caller's, as if
 * that had come of the beginning in `room`, or with `index` of the part that is there now; another code: the end. */
int ew_take_large(struct ew_conn *conn) {
    struct ew_large *const large = conn->large;
    uint8_t *const room = conn->room;
    const uint64_t room_size = conn->room_size;
    if (!begin(conn)) return FULL;
    conn->room_size = large->chunk - large->meta;
    uint64_t before = large->meta;
    for (;;) {
        int code = ew_take_data_set(conn, 0);
        if (code == FULL) {
            if (!put_chunk(conn, before, 0)) return FULL;
            if (!large->index++ && !sync_folder(large)) return large->index = 0, FULL;
            conn->room = room - large->meta;
            conn->room_size = large->chunk;
            conn->filled = large->fed = before = 0;
            if (__atomic_load_n(conn->stop, __ATOMIC_RELAXED)) code = GONE;
            else continue;
        }
        if (code == MESSAGE && !large->index) { /* it is one chunk, after all */
            const int syntax = conn->syntax[conn->context & 255];
            conn->walked = ew_walk(conn, conn->room, conn->filled, syntax == WALK_IMPLICIT);
            code = ew_admit(conn);
            if (code == OTHER) return MESSAGE;
            conn->admitted++;
        } else if (code == MESSAGE) {
            code = end(conn, before);
            if (code == OTHER) return MESSAGE;
            conn->admitted++;
            close(large->handle);
            large->handle = -1;
            large->index = 0;
        } else if (code == OTHER) {
            return OTHER;
        } else {
            ew_large_drop(large);
        }
        conn->room = room;
        conn->room_size = room_size;
        conn->filled = 0;
        return code;
    }
}
