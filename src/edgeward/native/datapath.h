/* What the compiled data path shares: with its caller (native/__init__.py has the same structures, and verifies their
 * sizes by `ew_layout`), and between its two rooms, datapath.c (the connection) and admission.c (what becomes of a
 * object without a word of Python's).
 */

#ifndef EDGEWARD_DATAPATH_H
#define EDGEWARD_DATAPATH_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    MESSAGE = 1, /* a whole C-STORE with its data set */
    COMMAND,     /* its command set, and there is no room for its data set yet */
    FULL,        /* the room is full, the data set goes on */
    WAIT,        /* nothing more within the caller's patience */
    OTHER,       /* for Python to read: nothing of it was consumed */
    GONE,        /* the peer closed, or the connection broke */
    SLOW,        /* the peer began something and did not end it in time */
    SILENT,      /* the peer did not begin anything in time */
    NOT_KEPT,    /* the record could not be written: nothing was answered */
    NOT_SENT,    /* the answer could not be sent */
    NOT_TAKEN,   /* the peer did not take the answer in time */
};

enum {
    BLOCK = 4096,
    TAGS = 32,
    UID = 64,
    MAX_PDU = 131072,
    MAX_COMMAND = 2048, /* bytes of a command set that is read here; real ones stay below 300 */
    DIRECT = 16384,     /* from here on bytes go where they belong without a detour */
    DEPTH = 32,         /* nesting that is followed here */
    HEADER = 12,        /* bytes of an element's at most */
    P_DATA = 4,
    IS_COMMAND = 1,
    IS_LAST = 2,
};

enum { MS = 1000000 };

/* ------------------------------------------------------------ what the caller shares with us */

struct ew_sync { /* the syncs of one file */
    pthread_mutex_t lock;
    pthread_cond_t told;
    uint64_t written, synced;
    int32_t busy, failed;
};

struct ew_record { /* what to keep */
    struct ew_sync *sync;
    int64_t at;       /* where in the log */
    uint8_t *head;    /* the row, sealed: whole blocks */
    uint64_t head_size;
    uint8_t *content; /* the object, encrypted */
    uint64_t content_size, content_room;
    const char *path; /* its own file; may be NULL */
    int32_t handle;   /* of the log */
    int32_t file_error;
};

enum {
    SLOTS = 256,    /* objects between their answer and their row in the journal */
    ROW = 4000,     /* bytes of what is known of one: it and its seal fit into one block of the log */
    VALUE = 1024,   /* bytes of a wanted value that are kept: gateway.walker's */
    KEY = 32,
    SALT = 16,
    TAG = 16,
    NAME = 8,
    NONCE = 12,
    ITEM_ID = 12,
    OBJECT_ID = 16,
    PATH = 1024,
};

struct ew_log { /* one file that is appended to: of the intake log, or a segment of the vault */
    struct ew_sync *sync;
    uint64_t end, size; /* where the next record goes; bytes of it that exist */
    uint64_t busy;      /* records of admission.c that have their place here and no row yet */
    uint64_t alone;     /* records without an object beside them: those of large.c */
    int32_t handle, failed;
    uint8_t salt[SALT], key[KEY];
    uint8_t name[NAME]; /* of a segment: what the ids of its objects begin with */
};

struct ew_slot { /* an object that was admitted here */
    struct ew_log *log;
    uint64_t size;
    uint8_t row[ROW];
};

struct ew_store { /* where the objects of all associations go; `lock` guards all of it, and the logs' numbers */
    /* of the caller */
    struct ew_log *active; /* the segment that is appended to */
    uint64_t crowded;  /* it is not from here on */
    int64_t room;      /* bytes that may be taken until the caller looks at the disk again; below 0: it looked in vain */
    int64_t budget_ns; /* from the reception to the deadline */
    int32_t closed;    /* not 0: nothing is taken */
    int32_t pending;   /* slots that are ready, or are being emptied */
    int32_t starved;   /* not 0: somebody waits for so many bytes; the caller takes it back when it has seen to it */
    int32_t unused;
    uint8_t content_key[KEY];
    /* of ours */
    pthread_mutex_t lock;
    pthread_cond_t told;
    uint32_t first, count, spare, enough;
    uint16_t ready[SLOTS], free[SLOTS];
    struct ew_slot slots[SLOTS];
};

struct ew_kind { /* what all objects of one presentation context have in common */
    const char *sop_class;
    const uint8_t *before, *after; /* the SOP Instance UID in the file meta information */
    const uint8_t *row;            /* device, class and transfer syntax, each behind a byte with its length */
    uint32_t class_size, before_size, after_size, row_size;
};

struct ew_ciphers { void *content, *mac, *row; };

struct ew_walker { /* how far a data set was looked at */
    uint64_t skip;  /* bytes of a value still to come */
    int32_t depth, mode, carried, later;
    uint8_t stack[DEPTH], carry[HEADER];
};

struct ew_object { uint8_t item_id[ITEM_ID], id[OBJECT_ID], key[KEY], nonce[NONCE], digest[TAG]; uint64_t size; };

struct ew_large { /* an object of more than a chunk, on its way into a file of its own */
    /* of the caller */
    const char *root; /* the folders of the vault's files */
    uint64_t chunk;   /* bytes of plaintext; so many exist at the `room` of the connection */
    /* Encrypt the `size` bytes from `start` on into `out` from `at` on, and digest them but for the first `before`; at the end
     * put the digest into `digest`. Return whether it worked. NULL: libcrypto does it. */
    int (*seal)(const uint8_t *start, uint64_t size, uint64_t before, uint64_t at, int final);
    /* for the caller, if he is to go on: `index` chunks were encrypted into `path` under `key`; the last `pending` bytes of
     * that are at the beginning of `out` still. What stands before the data set in the first chunk takes `meta` bytes. */
    uint64_t index, pending, written, meta;
    int32_t handle, unused;
    uint8_t key[KEY], digest[TAG];
    char path[PATH];
    /* of ours */
    uint64_t reserved, fed;
    uint32_t row_size;
    struct ew_object object;
    struct ew_walker walk;
    uint8_t row[ROW];
};

struct ew_conn { /* one association */
    /* of the caller */
    uint8_t *ahead; /* what was read ahead of what was asked for */
    uint8_t *room;  /* where the data set goes; may be NULL */
    const uint8_t *answer;
    uint64_t ahead_size, room_size, answer_size;
    uint64_t limit; /* bytes of a data set */
    int64_t idle_ms, pdu_ms, patience_ms;
    int32_t handle, wanted_count;
    uint32_t wanted[TAGS];
    uint8_t syntax[256]; /* by presentation context: see WALK_*; 0: not for us */
    /* of the caller, for admission.c; store NULL: everything is the caller's */
    struct ew_store *store;
    struct ew_ciphers *ciphers;
    const struct ew_kind *kinds;
    uint8_t *head;       /* a block */
    uint8_t *out;        /* where the encrypted object goes */
    const int32_t *stop; /* not 0: take no more */
    struct ew_large *large; /* NULL: what is larger than `room` is the caller's */
    uint64_t out_size, headroom, small, max_length;
    uint8_t kind[256];   /* by presentation context: one more than its place in `kinds`; 0: the caller's */
    /* of both */
    uint64_t at, end; /* what of `ahead` was not used yet */
    uint64_t size;    /* bytes of the data set announced so far */
    uint64_t filled;  /* bytes in `room` */
    uint64_t pdu_left, pdv_left;
    int64_t deadline_ns;
    int32_t begun;     /* a command set was read: a data set is due */
    int32_t fragments; /* of that data set so far */
    int32_t context, control;
    /* of ours */
    int64_t received_ns;
    int64_t send_limit_ns;
    int32_t error, kept;
    int32_t admitted; /* how many in this call */
    int32_t message_id, walked;
    int32_t class_size, instance_size;
    char sop_class[UID], sop_instance[UID];
    uint32_t value_at[TAGS], value_size[TAGS];
};

enum { WALK_NOT = 1, WALK_EXPLICIT, WALK_IMPLICIT };

static inline int64_t now_ns(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int ew_sync(struct ew_sync *sync, int handle);
int ew_write_file(const char *path, const uint8_t *content, uint64_t size);
int ew_send(struct ew_conn *conn, const uint8_t *data, uint64_t size);

/* of datapath.c, for large.c */
int ew_take_data_set(struct ew_conn *conn, int64_t until);
int ew_walk(struct ew_conn *conn, const uint8_t *data, uint64_t size, int implicit);
void ew_walk_begin(struct ew_conn *conn, struct ew_walker *walk, int implicit);
int ew_walk_some(struct ew_conn *conn, struct ew_walker *walk, const uint8_t *data, uint64_t size);
int ew_walk_end(const struct ew_walker *walk);

/* of admission.c */
struct ew_gcm { const uint8_t *key, *nonce, *bound; uint64_t bound_size; };
const struct ew_kind *ew_kind_of(const struct ew_conn *conn);
int ew_admit(struct ew_conn *conn);
int ew_seal(void *context, struct ew_gcm with, const uint8_t *data, uint64_t size, uint8_t *out);
int ew_digest_begin(struct ew_conn *conn);
int ew_digest_some(struct ew_conn *conn, const uint8_t *data, uint64_t size);
int ew_digest_end(struct ew_conn *conn, uint8_t *digest);
int ew_randomly(uint8_t *out, size_t size);
int ew_room(struct ew_store *store, uint64_t size);
int ew_admit_record(struct ew_conn *conn, struct ew_object *object, uint8_t *row, uint32_t row_size);
uint64_t ew_put_meta(const struct ew_conn *conn, const struct ew_kind *kind);
uint32_t ew_put_row(const struct ew_conn *conn, const struct ew_kind *kind, uint8_t *out);

/* of large.c */
int ew_take_large(struct ew_conn *conn);
void ew_large_drop(struct ew_large *large);

#endif
