/*
 * Read-ahead thread for files whose read(2) may block
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib-unix.h>
#include <poll.h>
#include <termios.h>
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "system/rng-reader.h"
#include "trace.h"

/* How soon to read again after an error, or if poll(2) was wrong */
#define RETRY_MS 20

/* How soon to open the file or create the thread again; timeout of poll(2) */
#define REOPEN_MS 1000

/*
 * How many bytes to read at once: twice as many after each fast read.
 *
 * A hardware generator makes 20 or 64 bytes at a time, for example, and the
 * kernel keeps those that a read leaves. So a short read loses nothing, and
 * ends as soon as there is a word for a caller that waits. Even the longest
 * read should end in time if a source becomes slow: at 64 bytes each 350 ms,
 * 512 bytes take 3 s.
 */
#define READ_MIN 8
#define READ_MAX 512
#define SLOW_NS SCALE_MS

/* How many bytes a caller reads itself from a file that never blocks */
#define READ_DIRECTLY 4096

/* In place of an errno */
#define END_OF_FILE (-1)
#define NO_THREAD (-2)

struct RngReader {
    GThread *thread;    /* NULL before rng_reader_start(); needs the BQL */
    bool never_blocks;  /* the file is Linux's /dev/urandom */

    QemuMutex lock;     /* for the fields up to @data */
    QemuCond cond;      /* signalled when @timer or next_size() changes */
    QEMUTimer *timer;   /* NULL: the owner has freed the reader */
    bool waited_for;    /* @timer should fire after the next read */
    int error;          /* the errno of the last read */
    size_t read_size;   /* the most bytes to read at once */
    size_t target;      /* how many bytes should be ready */
    size_t level;       /* how many bytes are ready */
    uint8_t data[RNG_READER_MAX];   /* zero after @level bytes */

    /* Only for the thread */
    char *name;
    char *filename;
    int fd;
    bool readable;      /* poll(2) says so */
    unsigned failures;  /* since the last read that gave bytes */
    uint8_t buf[READ_MAX];  /* zero except during a read */
};

/*
 * Open without waiting, since a pipe may have no writer. A terminal would edit
 * and echo bytes unless it is raw. With O_NONBLOCK, drivers of hardware
 * generators return no bytes instead of waiting for them, and have no poll
 * method. The thread may wait, so clear that flag for them.
 */
static int open_file(const char *filename, Error **errp)
{
    int fd = qemu_open(filename, O_RDONLY | O_NONBLOCK | O_NOCTTY, errp);
    struct termios mode;
    struct stat st;

    if (fd != -1 && tcgetattr(fd, &mode) == 0) {
        cfmakeraw(&mode);
        tcsetattr(fd, TCSANOW, &mode);
        tcflush(fd, TCIFLUSH);
    } else if (fd != -1 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode)) {
        g_unix_set_fd_nonblocking(fd, false, NULL);
    }
    return fd;
}

/*
 * Linux's generator has bytes at any time. Callers read it themselves if the
 * thread falls behind, which has to share the processors with all vCPUs.
 */
static bool is_urandom(int fd)
{
#ifdef CONFIG_LINUX
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) &&
           st.st_rdev == makedev(1, 9);
#else
    return false;
#endif
}

/*
 * A generator may have been plugged in again, or a pipe replaced. But if it is
 * still the same file on a disk, it would give the same bytes again.
 */
static void open_again(RngReader *r)
{
    int fd = open_file(r->filename, NULL);
    struct stat old, new;

    if (fd != -1 && fstat(r->fd, &old) == 0 && fstat(fd, &new) == 0 &&
        (S_ISREG(new.st_mode) || S_ISBLK(new.st_mode)) &&
        old.st_dev == new.st_dev && old.st_ino == new.st_ino) {
        qemu_close(fd);
    } else if (fd != -1) {
        qemu_close(r->fd);
        r->fd = fd;
    }
}

/* The last read has failed, or there were no bytes yet. */
static void wait_for_file(RngReader *r)
{
    struct pollfd fd = { .fd = r->fd, .events = POLLIN };

    if (r->error == EAGAIN && !r->readable) {
        r->readable = poll(&fd, 1, REOPEN_MS) > 0;
        return;
    }
    /* A file at its end, for example, is always readable. */
    r->readable = false;
    g_usleep(RETRY_MS * 1000);
    if (++r->failures % (REOPEN_MS / RETRY_MS) == 0) {
        open_again(r);
    }
}

/* How many bytes to read now. After an error, read only while someone waits. */
static size_t next_size(RngReader *r)
{
    if (r->error && r->error != EAGAIN && !r->waited_for) {
        return 0;
    }
    return MIN(r->target - MIN(r->level, r->target), r->read_size);
}

static void read_once(RngReader *r, size_t size)
{
    int64_t start, ns;
    ssize_t len;
    int error;

    qemu_mutex_unlock(&r->lock);
    if (r->error) {
        wait_for_file(r);
    }
    start = get_clock();
    len = RETRY_ON_EINTR(read(r->fd, r->buf, size));
    error = len > 0 ? 0 : len < 0 ? errno : END_OF_FILE;
    ns = get_clock() - start;
    trace_rng_reader_read(len, size, ns);
    qemu_mutex_lock(&r->lock);

    r->read_size = ns > SLOW_NS ? READ_MIN :
                   MAX(r->read_size, MIN(size * 2, READ_MAX));
    r->error = error;
    if (!error) {
        memcpy(r->data + r->level, r->buf, len);
        memset(r->buf, 0, len);
        r->level += len;
        r->readable = false;
        r->failures = 0;
    }
    if (error != EAGAIN && r->waited_for && r->timer) {
        r->waited_for = false;
        timer_mod(r->timer, 0);
    }
}

static void reader_destroy(RngReader *r)
{
    qemu_close(r->fd);
    qemu_cond_destroy(&r->cond);
    qemu_mutex_destroy(&r->lock);
    memset(r->data, 0, sizeof(r->data));
    g_clear_pointer(&r->thread, g_thread_unref);
    g_free(r->filename);
    g_free(r->name);
    g_free(r);
}

static void *reader_thread(void *opaque)
{
    RngReader *r = opaque;

    qemu_mutex_lock(&r->lock);
    while (r->timer) {
        size_t size = next_size(r);

        if (size) {
            read_once(r, size);
        } else {
            qemu_cond_wait(&r->cond, &r->lock);
        }
    }
    qemu_mutex_unlock(&r->lock);
    reader_destroy(r);
    return NULL;
}

RngReader *rng_reader_new(const char *name, const char *filename,
                          QEMUTimer *timer, Error **errp)
{
    int fd = open_file(filename, errp);
    RngReader *r;

    if (fd == -1) {
        return NULL;
    }
    r = g_new0(RngReader, 1);
    qemu_mutex_init(&r->lock);
    qemu_cond_init(&r->cond);
    r->timer = timer;
    r->name = g_strdup_printf("RNG %.11s", name);
    r->filename = g_strdup(filename);
    r->fd = fd;
    r->never_blocks = is_urandom(fd);
    r->read_size = READ_MIN;
    return r;
}

void rng_reader_free(RngReader *r)
{
    if (r && !r->thread) {
        reader_destroy(r);
    } else if (r) {
        QEMU_LOCK_GUARD(&r->lock);
        r->timer = NULL;
        qemu_cond_signal(&r->cond);
    }
}

void rng_reader_start(RngReader *r)
{
    sigset_t all, old;

    if (r->thread) {
        return;
    }
    /* qemu_thread_create() would abort if the host allows no more threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r->thread = g_thread_try_new(r->name, reader_thread, r, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!r->thread) {
        r->error = NO_THREAD;
        timer_mod(r->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + REOPEN_MS);
    }
}

static const char *error_text(int error)
{
    switch (error) {
    case 0:
    case EAGAIN:
        return NULL;
    case END_OF_FILE:
        return "end of file";
    case NO_THREAD:
        return "cannot create a thread";
    default:
        return strerror(error);
    }
}

size_t rng_reader_take(RngReader *r, void *buf, size_t size, size_t ahead,
                       const char **fault)
{
    size_t len = 0;
    bool wake = false;

    WITH_QEMU_LOCK_GUARD(&r->lock) {
        len = MIN(size, r->level);
        memcpy(buf, r->data, len);
        r->level -= len;
        memmove(r->data, r->data + len, r->level);
        memset(r->data + r->level, 0, len);

        r->target = MIN(len ? ahead : MAX(ahead, size), RNG_READER_MAX);
        r->waited_for |= !len && !r->never_blocks;
        wake = next_size(r);
        *fault = error_text(r->error);
    }

    if (!r->thread && !timer_pending(r->timer)) {
        timer_mod(r->timer, 0);
    } else if (wake) {
        qemu_cond_signal(&r->cond); /* without the lock, which it needs next */
    }
    if (!len && r->never_blocks) {
        len = MAX(read(r->fd, buf, MIN(size, READ_DIRECTLY)), 0);
    }
    return len;
}
