/* The data path of a plain DICOM association, without the interpreter: one call for each C-STORE.
 *
 * Responsible for: a record of the intake log on the disk, with one sync that all associations share; the answer; the
 * next message (PS3.8, 9.3.5): the fields of its C-STORE-RQ (PS3.7, 9.3.1.1) and the bytes of its data set, without
 * the headers of PDUs and fragments; where the wanted elements lie in it (PS3.5, 7).
 *
 * Not responsible for deciding anything, for encryption, or for whatever is unusual. It consumes nothing that it is
 * not sure of: it then returns OTHER, and Python reads the same bytes from the same place, says what is wrong with
 * them and answers (gateway.association, gateway.walker). So all that a peer can do to this file is to be handed on.
 *
 * It allocates nothing, calls nothing of itself, and writes only into memory whose size the caller gave with it.
 * No length that a peer sent is used before it was compared with what is there. The caller is native/__init__.py;
 * structures are the same there, which `ew_layout` lets it verify.
 */

#include "datapath.h"

int64_t ew_layout(int which) {
    switch (which) {
    case 0: return sizeof(struct ew_sync);
    case 1: return sizeof(struct ew_record);
    case 2: return sizeof(struct ew_conn);
    case 3: return offsetof(struct ew_conn, value_size);
    case 4: return sizeof(struct ew_log);
    case 5: return sizeof(struct ew_slot);
    case 6: return sizeof(struct ew_store);
    case 7: return offsetof(struct ew_store, lock);
    case 8: return offsetof(struct ew_store, slots);
    case 10: return sizeof(struct ew_large);
    case 11: return offsetof(struct ew_large, reserved);
    default: return sizeof(struct ew_kind);
    }
}

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }
static uint32_t le32(const uint8_t *p) { return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0]; }
static uint32_t le16(const uint8_t *p) { return (uint32_t)p[1] << 8 | p[0]; }

/* ------------------------------------------------------------ keeping */

int ew_sync_begin(struct ew_sync *sync) {
    memset(sync, 0, sizeof *sync);
    int error = pthread_mutex_init(&sync->lock, NULL);
    return error ? error : pthread_cond_init(&sync->told, NULL);
}

/* Return once all that the caller has written is on the disk: one syncs for all who have written. */
int ew_sync(struct ew_sync *sync, int handle) {
    pthread_mutex_lock(&sync->lock);
    const uint64_t mine = ++sync->written;
    while (sync->synced < mine && !sync->failed) {
        if (sync->busy) {
            pthread_cond_wait(&sync->told, &sync->lock);
            continue;
        }
        const uint64_t upto = sync->written;
        sync->busy = 1;
        pthread_mutex_unlock(&sync->lock);
        const int error = fdatasync(handle) ? errno : 0;
        pthread_mutex_lock(&sync->lock);
        sync->busy = 0;
        if (error) sync->failed = error; /* nobody knows what the next one would tell */
        else sync->synced = upto;
        pthread_cond_broadcast(&sync->told);
    }
    const int error = sync->synced < mine ? sync->failed : 0;
    pthread_mutex_unlock(&sync->lock);
    return error;
}

static uint64_t in_blocks(uint64_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

/* Return 0 or an errno. */
int ew_keep(struct ew_record *record) {
    const uint64_t whole = in_blocks(record->content_size);
    if (whole > record->content_room || record->head_size % BLOCK) return EINVAL;
    if (whole) memset(record->content + record->content_size, 0, whole - record->content_size);
    struct iovec parts[2] = {{record->head, record->head_size}, {record->content, whole}};
    ssize_t count;
    do count = pwritev(record->handle, parts, whole ? 2 : 1, record->at);
    while (count < 0 && errno == EINTR);
    if (count < 0) return errno;
    if ((uint64_t)count != record->head_size + whole) return ENOSPC;
    return ew_sync(record->sync, record->handle);
}

/* Write an object's own file: unsynced, for the log has it. Return 0 or an errno. */
int ew_write_file(const char *path, const uint8_t *content, uint64_t size) {
    const int handle = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (handle < 0) return errno;
    int error = 0;
    for (uint64_t done = 0; done < size && !error;) {
        const ssize_t count = write(handle, content + done, size - done);
        if (count > 0) done += (uint64_t)count;
        else if (!count) error = EIO;
        else if (errno != EINTR) error = errno;
    }
    if (close(handle) && !error) error = errno;
    if (error) unlink(path);
    return error;
}

/* ------------------------------------------------------------ the connection */

static void set_limit(int handle, int option, int64_t ns) {
    if (ns < MS) ns = MS; /* 0 would mean: none */
    struct timeval time = {.tv_sec = ns / 1000000000, .tv_usec = ns % 1000000000 / 1000};
    setsockopt(handle, SOL_SOCKET, option, &time, sizeof time);
}

int ew_send(struct ew_conn *conn, const uint8_t *data, uint64_t size) {
    if (conn->send_limit_ns != conn->pdu_ms * MS) set_limit(conn->handle, SO_SNDTIMEO, conn->send_limit_ns = conn->pdu_ms * MS);
    for (uint64_t done = 0; done < size;) {
        const ssize_t count = send(conn->handle, data + done, size - done, MSG_NOSIGNAL);
        if (count > 0) done += (uint64_t)count;
        else if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return NOT_TAKEN;
        else if (count == 0 || errno != EINTR) return NOT_SENT;
    }
    return 0;
}

/* Read what comes into `parts`: some of it, or all of it if it comes in time. Return its length, or minus a code. */
static int64_t take(struct ew_conn *conn, struct iovec *parts, int count, int flags, int64_t limit_ms, int64_t until) {
    int64_t now = now_ns(CLOCK_MONOTONIC);
    if (!conn->deadline_ns) conn->deadline_ns = now + limit_ms * MS;
    for (;;) {
        if (conn->deadline_ns <= now) return -SLOW;
        if (until && until <= now) return -WAIT;
        const int64_t end = until && until < conn->deadline_ns ? until : conn->deadline_ns;
        set_limit(conn->handle, SO_RCVTIMEO, end - now);
        /* A sender with Nagle's algorithm holds the end of a message back until all before it is acknowledged. */
        const int one = 1;
        setsockopt(conn->handle, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
        const ssize_t got = recvmsg(conn->handle, &message, flags);
        if (got > 0) return got;
        if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return -GONE;
        now = now_ns(CLOCK_MONOTONIC);
    }
}

/* Have at least `wanted` bytes ahead; return 0 or a code. The first may come late if `idle_ms` says so. */
static int look(struct ew_conn *conn, uint64_t wanted, int64_t idle_ms, int64_t until) {
    while (conn->end - conn->at < wanted) {
        const int idle = conn->at == conn->end && idle_ms;
        if (conn->at) {
            memmove(conn->ahead, conn->ahead + conn->at, conn->end - conn->at);
            conn->end -= conn->at;
            conn->at = 0;
        }
        if (wanted > conn->ahead_size) return OTHER;
        struct iovec part = {conn->ahead + conn->end, conn->ahead_size - conn->end};
        const int64_t got = take(conn, &part, 1, 0, idle ? idle_ms : conn->pdu_ms, until);
        if (got < 0) return idle && got == -SLOW && !(conn->begun && conn->fragments) ? SILENT : (int)-got;
        conn->end += (uint64_t)got;
        if (idle) conn->deadline_ns = 0; /* it has begun: another limit */
    }
    return 0;
}

/* ------------------------------------------------------------ the command set */

static int is_uid(const uint8_t *text, uint32_t *size) {
    while (*size && (text[*size - 1] == 0 || text[*size - 1] == ' ')) --*size;
    if (!*size || *size > UID) return 0;
    for (uint32_t i = 0; i < *size; i++)
        if (text[i] != '.' && (text[i] < '0' || text[i] > '9')) return 0;
    return 1;
}

/* Whether this is a C-STORE-RQ as all the world sends it; if so, its fields are in `conn`. */
static int is_store(struct ew_conn *conn, const uint8_t *data, uint32_t size) {
    enum { FIELD = 1, ID = 2, TYPE = 4, CLASS = 8, INSTANCE = 16 };
    int found = 0;
    int32_t before = -1;
    for (uint32_t at = 0; at < size;) {
        if (size - at < 8 || le16(data + at)) return 0;
        const int32_t number = (int32_t)le16(data + at + 2);
        uint32_t length = le32(data + at + 4);
        at += 8;
        if (length > size - at || number <= before) return 0;
        const uint8_t *value = data + at;
        at += length;
        before = number;
        switch (number) {
        case 0x0000: case 0x0700: case 0x1030: case 0x1031: break;
        case 0x0100:
            if (length != 2 || le16(value) != 0x0001) return 0;
            found |= FIELD;
            break;
        case 0x0110:
            if (length != 2) return 0;
            conn->message_id = (int32_t)le16(value);
            found |= ID;
            break;
        case 0x0800:
            if (length != 2 || le16(value) == 0x0101) return 0;
            found |= TYPE;
            break;
        case 0x0002:
            if (!is_uid(value, &length)) return 0;
            memcpy(conn->sop_class, value, length);
            conn->class_size = (int32_t)length;
            found |= CLASS;
            break;
        case 0x1000:
            if (!is_uid(value, &length)) return 0;
            memcpy(conn->sop_instance, value, length);
            conn->instance_size = (int32_t)length;
            found |= INSTANCE;
            break;
        default: return 0;
        }
    }
    return found == (FIELD | ID | TYPE | CLASS | INSTANCE);
}

static int take_command(struct ew_conn *conn, int64_t until) {
    if (conn->pdu_left) return OTHER; /* it begins in the midst of a PDU: nobody sends that */
    int code = look(conn, 1, conn->idle_ms, until);
    if (!code && conn->ahead[conn->at] != P_DATA) return OTHER;
    if (!code) code = look(conn, 12, 0, until);
    if (code) return code;
    const uint8_t *p = conn->ahead + conn->at;
    const uint32_t pdu = be32(p + 2), pdv = be32(p + 6);
    if (pdu < 6 || pdu > MAX_PDU || pdv < 2 || pdv > pdu - 4 || pdv > MAX_COMMAND) return OTHER;
    const uint32_t rest = pdu - 4 - pdv;
    if ((rest && rest < 6) || (p[11] & (IS_COMMAND | IS_LAST)) != (IS_COMMAND | IS_LAST) || !conn->syntax[p[10]]) return OTHER;
    code = look(conn, 10 + pdv, 0, until);
    if (code) return code;
    p = conn->ahead + conn->at; /* it may have moved */
    if (!is_store(conn, p + 12, pdv - 2)) return OTHER;
    conn->context = p[10];
    conn->at += 10 + pdv;
    conn->pdu_left = rest;
    conn->pdv_left = conn->size = conn->filled = 0;
    conn->fragments = conn->control = 0;
    conn->deadline_ns = 0;
    conn->begun = 1;
    return 0;
}

/* ------------------------------------------------------------ the data set */

static int take_header(struct ew_conn *conn, int64_t until) {
    uint64_t pdu = conn->pdu_left;
    const uint64_t before = pdu ? 0 : 6;
    int code = 0;
    if (!pdu) {
        code = look(conn, 1, conn->idle_ms, until);
        if (!code && conn->ahead[conn->at] != P_DATA) return OTHER; /* an A-ABORT is shorter than what follows */
    }
    if (!code) code = look(conn, before + 6, conn->idle_ms, until);
    if (code) return code;
    const uint8_t *p = conn->ahead + conn->at;
    if (!pdu) pdu = be32(p + 2);
    p += before;
    const uint64_t pdv = be32(p);
    if (pdu < 6 || pdu > MAX_PDU || pdv < 2 || pdv > pdu - 4) return OTHER;
    const uint64_t rest = pdu - 4 - pdv;
    if ((rest && rest < 6) || p[4] != conn->context || p[5] & IS_COMMAND) return OTHER;
    if (conn->size > conn->limit || pdv - 2 > conn->limit - conn->size) return OTHER;
    conn->control = p[5];
    conn->at += before + 6;
    conn->pdu_left = rest;
    conn->pdv_left = pdv - 2;
    conn->size += pdv - 2;
    conn->deadline_ns = 0;
    if (conn->fragments < INT32_MAX) conn->fragments++;
    return 0;
}

static int take_content(struct ew_conn *conn, int64_t until) {
    const uint64_t space = conn->room_size - conn->filled;
    uint64_t want = conn->pdv_left < space ? conn->pdv_left : space;
    uint64_t got = conn->end - conn->at < want ? conn->end - conn->at : want;
    if (got) {
        memcpy(conn->room + conn->filled, conn->ahead + conn->at, got);
        conn->at += got;
    } else if (want < DIRECT) {
        return look(conn, 1, 0, until);
    } else { /* `ahead` is empty */
        struct iovec parts[2] = {{conn->room + conn->filled, want}, {conn->ahead, conn->pdu_left ? 6 : 12}};
        const int goes_on = want == conn->pdv_left && !(conn->control & IS_LAST);
        const int64_t count = take(conn, parts, goes_on ? 2 : 1, MSG_WAITALL, conn->pdu_ms, until);
        if (count < 0) return (int)-count;
        got = (uint64_t)count < want ? (uint64_t)count : want;
        conn->at = 0;
        conn->end = (uint64_t)count - got;
    }
    conn->filled += got;
    conn->pdv_left -= got;
    if (!conn->pdv_left) conn->deadline_ns = 0;
    return 0;
}

int ew_take_data_set(struct ew_conn *conn, int64_t until) {
    for (;;) {
        int code;
        if (conn->pdv_left) {
            if (conn->filled >= conn->room_size) return FULL;
            code = take_content(conn, until);
        } else if (conn->fragments && conn->control & IS_LAST) {
            conn->begun = 0;
            conn->received_ns = now_ns(CLOCK_REALTIME);
            return MESSAGE;
        } else {
            code = take_header(conn, until);
        }
        if (code) return code;
    }
}

/* ------------------------------------------------------------ where the wanted elements lie */

enum { EXPLICIT, IMPLICIT, ITEMS, ITEMS_IMPLICIT, FRAGMENTS };
static const uint32_t UNDEFINED = 0xFFFFFFFF;

static int vr_is(const uint8_t *p, const char *names) {
    for (; *names; names += 2)
        if (p[0] == names[0] && p[1] == names[1]) return 1;
    return 0;
}

void ew_walk_begin(struct ew_conn *conn, struct ew_walker *walk, int implicit) {
    memset(walk, 0, sizeof *walk);
    walk->mode = implicit ? IMPLICIT : EXPLICIT;
    for (int i = 0; i < conn->wanted_count && i < TAGS; i++) conn->value_size[i] = UNDEFINED;
}

/* Note where a wanted value lies: in the first piece, all of it. Return 0 if it does not. */
static int note_value(struct ew_conn *conn, const struct ew_walker *walk, uint32_t tag, uint32_t length, uint64_t at, uint64_t size) {
    for (int i = 0; i < conn->wanted_count && i < TAGS; i++) {
        if (conn->wanted[i] != tag || conn->value_size[i] != UNDEFINED) continue;
        if (walk->later || at > size || length > size - at) return 0;
        conn->value_at[i] = (uint32_t)at;
        conn->value_size[i] = length;
    }
    return 1;
}

/* Look at the next piece of a data set; the first has its first header. Return 0 as soon as there is a doubt. */
int ew_walk_some(struct ew_conn *conn, struct ew_walker *walk, const uint8_t *data, uint64_t size) {
    uint64_t at = 0;
    if (!walk->later) {
        if (size < 8 || size >= UNDEFINED || le16(data) < 0x0008 || le16(data) >= 0x0100) return 0;
        if (walk->mode == IMPLICIT &&
            (vr_is(data + 4, "AEASATCSDADSDTFLFDISLOLTPNSHSLSSSTTMUIULUS") || vr_is(data + 4, "OBODOFOLOVOWSQSVUCUNURUTUV")))
            return 0; /* it may be explicit */
    }
    for (;;) {
        const uint64_t step = walk->skip < size - at ? walk->skip : size - at;
        at += step, walk->skip -= step;
        if (at == size) break;
        const uint8_t *p = data + at;
        const uint64_t before = (uint64_t)walk->carried;
        uint64_t there = size - at, header = 8;
        if (before) { /* the header began in the piece before */
            if (there > HEADER - before) there = HEADER - before;
            memcpy(walk->carry + before, p, there);
            p = walk->carry, there += before;
        }
        const int is_long = there >= 8 && walk->mode == EXPLICIT && le16(p) != 0xFFFE && vr_is(p + 4, "OBODOFOLOVOWSQSVUCUNURUTUV");
        if (is_long) header = 12;
        if (there < header) {
            if (!before) memcpy(walk->carry, p, there);
            walk->carried = (int32_t)there;
            break;
        }
        at += header - before;
        walk->carried = 0;
        const uint32_t tag = le16(p) << 16 | le16(p + 2);
        uint32_t length = le32(p + header - 4);
        int entered = -1;
        if (walk->mode >= ITEMS) {
            if (tag == 0xFFFEE0DD) {
                walk->mode = walk->stack[--walk->depth]; /* never empty: these modes are only entered */
                continue;
            }
            if (tag != 0xFFFEE000) return 0;
            if (length == UNDEFINED) {
                if (walk->mode == FRAGMENTS) return 0;
                entered = walk->mode == ITEMS ? EXPLICIT : IMPLICIT;
            }
        } else if (tag >> 16 == 0xFFFE) {
            if (tag != 0xFFFEE00D || !walk->depth) return 0;
            walk->mode = walk->stack[--walk->depth];
            continue;
        } else {
            const uint8_t *vr = p + 4;
            if (walk->mode == EXPLICIT && !is_long) {
                if (!vr_is(vr, "AEASATCSDADSDTFLFDISLOLTPNSHSLSSSTTMUIULUS")) return 0;
                length = le16(p + 6);
            }
            if (length == UNDEFINED) {
                const int pixels = tag == 0x7FE00008 || tag == 0x7FE00009 || tag == 0x7FE00010;
                if (pixels && (walk->mode == IMPLICIT || vr_is(vr, "OBOWUN"))) entered = FRAGMENTS;
                else if (walk->mode == IMPLICIT || vr_is(vr, "UN")) entered = ITEMS_IMPLICIT;
                else if (vr_is(vr, "SQ")) entered = ITEMS;
                else return 0;
            } else if (!walk->depth && !note_value(conn, walk, tag, length, at, size)) {
                return 0;
            }
        }
        if (entered >= 0) {
            if (walk->depth == DEPTH) return 0;
            walk->stack[walk->depth++] = (uint8_t)walk->mode;
            walk->mode = entered;
        } else {
            walk->skip = length;
        }
    }
    walk->later = 1;
    return 1;
}

/* Whether what was looked at is whole. */
int ew_walk_end(const struct ew_walker *walk) { return walk->later && !walk->depth && !walk->skip && !walk->carried; }

/* Whether a data set is whole and encoded as it was said to be, beyond doubt. gateway.walker looks at the others. */
int ew_walk(struct ew_conn *conn, const uint8_t *data, uint64_t size, int implicit) {
    struct ew_walker walk;
    ew_walk_begin(conn, &walk, implicit);
    return ew_walk_some(conn, &walk, data, size) && ew_walk_end(&walk);
}

/* ------------------------------------------------------------ the one call */

static int take_message(struct ew_conn *conn, int64_t until) {
    conn->walked = 0;
    int code = conn->begun ? 0 : take_command(conn, until);
    if (!code) code = conn->room ? ew_take_data_set(conn, until) : COMMAND;
    if (code == OTHER) conn->deadline_ns = 0;
    const int syntax = conn->syntax[conn->context & 255];
    if (code == MESSAGE && conn->filled == conn->size && (syntax == WALK_EXPLICIT || syntax == WALK_IMPLICIT))
        conn->walked = ew_walk(conn, conn->room, conn->filled, syntax == WALK_IMPLICIT);
    return code;
}

/* Take the next message that is not admitted here, from where the last call left it. */
static int take_messages(struct ew_conn *conn) {
    conn->admitted = 0;
    for (;;) {
        const int64_t until = conn->patience_ms ? now_ns(CLOCK_MONOTONIC) + conn->patience_ms * MS : 0;
        int code = take_message(conn, until);
        if (!conn->store) return code;
        if (code == FULL && conn->large) {
            code = ew_take_large(conn);
        } else if (code == MESSAGE) {
            code = ew_admit(conn);
            if (code == OTHER) return MESSAGE; /* the caller's */
            conn->admitted++;
            conn->filled = 0;
        }
        if (code) return code;
        if (__atomic_load_n(conn->stop, __ATOMIC_RELAXED)) return GONE;
    }
}

int ew_take(struct ew_conn *conn) {
    conn->send_limit_ns = 0;
    return take_messages(conn);
}

/* Keep what arrived before, answer it, write its own file, and take the next message. */
int ew_exchange(struct ew_conn *conn, struct ew_record *record) {
    conn->kept = conn->error = conn->admitted = 0;
    conn->send_limit_ns = 0;
    if (record) {
        conn->error = ew_keep(record);
        if (conn->error) return NOT_KEPT;
        conn->kept = 1;
    }
    const int code = ew_send(conn, conn->answer, conn->answer_size);
    conn->answer_size = 0;
    if (record && record->path) record->file_error = ew_write_file(record->path, record->content, record->content_size);
    /* People are to hear of that record before another one is admitted: the caller comes back at once. */
    if (!code && record && conn->store) return WAIT;
    return code ? code : take_messages(conn);
}
