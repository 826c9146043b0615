/*
 * A thread that reads a file, so that no holder of the BQL has to
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/rng-reader.h"
#include "trace.h"

/* The most bytes that are read ahead */
#define RING_SIZE (128 * KiB)

/*
 * How much is read ahead, as a multiple of the size that a caller asks for.
 * Waking the thread takes about 10 us, so one wake-up should serve many calls.
 */
#define AHEAD_FACTOR 32

/* A read asks for at least STEP_SIZE and at most STEP_SIZE << STEP_MAX bytes */
#define STEP_SIZE 8
#define STEP_MAX 7

/* A read that takes longer is slow */
#define SLOW_NS (1 * SCALE_MS)

/* After so many fast reads in a row, the source counts as fast */
#define READS_TO_TRUST 16

/* After so many reads, the next longer size is tried again */
#define READS_TO_FORGET 64

/* After so many late reads in a row, the source itself has become slower */
#define LATE_READS 3

/**
 * struct RngReader - a thread that reads a file
 * @lock: protects all fields except for @fd, which does not change, and the
 *        bytes of @ring that are not ready, which belong to the thread
 * @cond: signalled when @reading or @bh changes
 * @fd: the file
 * @bh: scheduled if @waited_for; NULL: the owner has freed the reader, and the
 *      thread frees this structure
 * @reading: the thread reads until @level reaches @target, or @error is set
 * @waited_for: the owner waits for the end of a read
 * @asked: bytes have been asked for before
 * @filled: the last read gave as many bytes as it asked for
 * @slow: how many more fast reads make the source fast; 0: the source is fast
 * @error: the errno of the last read; ENODATA at the end of the file
 * @ahead: how many bytes to keep ready for later calls
 * @target: the thread reads until so many bytes are ready
 * @ring: the bytes that are ready; all others are zero
 * @head: the offset in @ring of the first byte that is ready
 * @level: how many bytes are ready
 * @step: the next read asks for at most STEP_SIZE << @step bytes
 * @reads: how many reads have been timed
 * @late: how many reads in a row took much longer than @best_ns
 * @best_ns: the least time that a read of STEP_SIZE << i bytes took; 0: unknown
 */
struct RngReader {
    QemuMutex lock;
    QemuCond cond;
    int fd;
    QEMUBH *bh;
    bool reading;
    bool waited_for;
    bool asked;
    bool filled;
    unsigned slow;
    int error;
    size_t ahead;
    size_t target;

    uint8_t ring[RING_SIZE];
    size_t head;
    size_t level;

    unsigned step;
    unsigned reads;
    unsigned late;
    int64_t best_ns[STEP_MAX + 1];
};

/* The size of a read */

static size_t read_size(RngReader *r)
{
    return STEP_SIZE << r->step;
}

/* Whether a read of step i + 1 takes hardly longer than a read of step i. */
static bool longer_read_pays(RngReader *r, unsigned i)
{
    return r->best_ns[i + 1] <= MAX(SLOW_NS, r->best_ns[i] * 3 / 2);
}

/*
 * A caller that finds no bytes has to wait for the end of the current read. A
 * hardware generator makes 32 or 64 bytes at a time, for example: a longer read
 * takes a multiple of the time, a shorter read takes the whole time. So the
 * size grows as long as the read takes hardly longer. Compare the shortest
 * times, since a busy host can delay a read, but cannot speed it up.
 */
static void learn_size(RngReader *r, int64_t ns)
{
    int64_t *best = &r->best_ns[r->step];

    r->late = *best && ns > MAX(SLOW_NS, *best * 4) ? r->late + 1 : 0;
    if (r->late == LATE_READS) {
        memset(r->best_ns, 0, sizeof(r->best_ns));
        r->late = 0;
        r->step = 0;
        return;
    }

    *best = *best ? MIN(*best, ns) : MAX(ns, 1);
    if (++r->reads % READS_TO_FORGET == 0 && r->step < STEP_MAX) {
        r->best_ns[r->step + 1] = 0;
    }
    if (r->step && !longer_read_pays(r, r->step - 1)) {
        r->step--;
    } else if (r->step < STEP_MAX && longer_read_pays(r, r->step)) {
        r->step++;
    }
}

/* The thread */

/* The contiguous room after the bytes that are ready */
static size_t ring_room(RngReader *r, size_t *tail)
{
    *tail = (r->head + r->level) % RING_SIZE;
    return MIN(RING_SIZE - r->level, RING_SIZE - *tail);
}

/* A slow source takes just as long for fewer bytes than read_size(). */
static size_t next_size(RngReader *r)
{
    return r->slow && r->ahead ? read_size(r) :
                                 MIN(read_size(r), r->target - r->level);
}

static void read_once(RngReader *r)
{
    size_t tail;
    size_t size = next_size(r);
    int64_t start, ns;
    ssize_t len;
    int error;

    size = MIN(size, ring_room(r, &tail));
    qemu_mutex_unlock(&r->lock);
    start = get_clock();
    len = RETRY_ON_EINTR(read(r->fd, r->ring + tail, size));
    error = len > 0 ? 0 : len < 0 ? errno : ENODATA;
    ns = get_clock() - start;
    trace_rng_reader_read(len, size, ns);
    qemu_mutex_lock(&r->lock);

    r->error = error;
    r->reading = !error;
    r->filled = len == size;
    if (len > 0) {
        r->level += len;
        r->slow = ns > SLOW_NS ? READS_TO_TRUST : r->slow - !!r->slow;
    }
    if (len == read_size(r)) {
        learn_size(r, ns);
    }
    if (r->waited_for && r->bh) {
        r->waited_for = false;
        qemu_bh_schedule(r->bh);
    }
}

static void reader_destroy(RngReader *r)
{
    qemu_close(r->fd);
    qemu_cond_destroy(&r->cond);
    qemu_mutex_destroy(&r->lock);
    memset(r->ring, 0, sizeof(r->ring));
    g_free(r);
}

static void *reader_thread(void *opaque)
{
    RngReader *r = opaque;

    qemu_mutex_lock(&r->lock);
    while (r->bh) {
        if (r->reading && r->level < r->target) {
            read_once(r);
            continue;
        }
        r->reading = false;
        qemu_cond_wait(&r->cond, &r->lock);
    }
    qemu_mutex_unlock(&r->lock);

    reader_destroy(r);
    return NULL;
}

static void start_reading(RngReader *r)
{
    if (!r->reading) {
        r->reading = true;
        qemu_cond_signal(&r->cond);
    }
}

/* The owner of the reader */

/* Hand out contiguous bytes, and wipe them in the ring. */
static size_t take_piece(RngReader *r, void *buf, size_t size)
{
    uint8_t *p = r->ring + r->head;

    size = MIN(size, MIN(r->level, RING_SIZE - r->head));
    memcpy(buf, p, size);
    memset(p, 0, size);
    r->head = (r->head + size) % RING_SIZE;
    r->level -= size;
    return size;
}

/*
 * Read ahead from the second call on, and only if the last read gave as many
 * bytes as it asked for. With a slow source, the bytes of one read are ready
 * while the next read is pending.
 */
static void set_target(RngReader *r, size_t size, size_t len, bool ahead)
{
    size_t most = r->slow ? 2 * read_size(r) : RING_SIZE;

    if (ahead && r->asked && r->filled) {
        r->ahead = MAX(r->ahead, size * AHEAD_FACTOR);
    }
    r->asked = true;
    r->ahead = MIN(r->ahead, most);
    r->target = len == size ? r->ahead : MIN(MAX(r->ahead, size), most);
}

/* Waking the thread is slow: of a fast source, read many bytes at once. */
static bool needs_more(RngReader *r, size_t len)
{
    return r->level < (len && !r->slow ? r->target / 2 : r->target);
}

size_t rng_reader_take(RngReader *r, void *buf, size_t size, bool ahead)
{
    QEMU_LOCK_GUARD(&r->lock);
    size_t len = take_piece(r, buf, size);

    len += take_piece(r, buf + len, size - len);
    set_target(r, size, len, ahead);
    r->waited_for |= !len;
    if (!r->error && needs_more(r, len)) {
        start_reading(r);
    }
    return len;
}

int rng_reader_error(RngReader *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    return r->error;
}

void rng_reader_again(RngReader *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    r->error = 0;
    r->waited_for = true;
    r->target = MAX(r->target, r->level + 1);
    start_reading(r);
}

RngReader *rng_reader_new(int fd, QEMUBH *bh)
{
    RngReader *r = g_new0(RngReader, 1);
    QemuThread thread;

    qemu_mutex_init(&r->lock);
    qemu_cond_init(&r->cond);
    r->fd = fd;
    r->bh = bh;
    qemu_thread_create(&thread, "rng-reader", reader_thread, r,
                       QEMU_THREAD_DETACHED);
    return r;
}

void rng_reader_free(RngReader *r)
{
    if (r) {
        QEMU_LOCK_GUARD(&r->lock);
        r->bh = NULL;
        qemu_cond_signal(&r->cond);
    }
}
