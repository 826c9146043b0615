/*
 * Preloaded into a program: makes its reads of one file fail or take long
 *
 * A slow file is like Linux's /dev/hwrng: rng_dev_read() of
 * drivers/char/hw_random/core.c waits until it has all bytes that were asked
 * for, and keeps what is left of the last chunk. With @short_reads, a read
 * ends earlier, as that of a pipe or a serial port.
 *
 * FAILING_FILE names the file. FAILING_CONTROL names a file with a struct
 * Control, which the test shares.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/**
 * struct Control - settings of the test, and counters for it
 * @error: the errno to fail with; 0: the file is read; -1: no read returns
 * @calls: the number of reads so far
 * @chunk: the source makes so many bytes at a time; 0: any number
 * @chunk_us: how many microseconds each chunk takes
 * @chunks_most: the source makes no more chunks than that: a read that needs
 *               more does not return. Used only if @chunk is set
 * @chunks: the number of chunks so far
 * @bytes: the number of bytes so far
 * @ended: the number of reads that have returned
 * @others: the number of reads by other threads than QEMU's readers
 * @short_reads: a read gives what is left of a chunk, without waiting for more
 * @no_threads: the program cannot make threads
 * @inode: the number of another file on the same filesystem that is used
 *         instead of FAILING_FILE; 0: none
 */
typedef struct Control {
    int error;
    int calls;
    int chunk;
    int chunk_us;
    int chunks_most;
    int chunks;
    int bytes;
    int ended;
    int others;
    int short_reads;
    int no_threads;
    int inode;
} Control;

static struct stat file;
static volatile Control *control;
static ssize_t (*real_read)(int, void *, size_t);

__attribute__((constructor)) static void start(void)
{
    int fd = open(getenv("FAILING_CONTROL"), O_RDWR);

    real_read = dlsym(RTLD_NEXT, "read");
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
                   MAP_SHARED, fd, 0);
    if (stat(getenv("FAILING_FILE"), &file) < 0 || control == MAP_FAILED) {
        abort();
    }
    close(fd);
}

static void count(volatile int *counter, int n)
{
    __atomic_add_fetch(counter, n, __ATOMIC_SEQ_CST);
}

/* QEMU names these threads; no thread with this name ever has the BQL. */
static bool is_reader(void)
{
    char name[16];

    return pthread_getname_np(pthread_self(), name, sizeof(name)) == 0 &&
           strncmp(name, "RNG ", 4) == 0;
}

static void make_chunk(void)
{
    usleep(control->chunk_us);
    while (control->chunks >= control->chunks_most) {
        usleep(1000);
    }
    count(&control->chunks, 1);
}

/* Wait for chunks. Returns how many bytes of @size the read gives. */
static size_t make(size_t size)
{
    static _Thread_local size_t left;    /* of the last chunk */
    size_t given = 0;

    if (!control->chunk) {
        return size;
    }
    do {
        size_t n;

        if (!left) {
            make_chunk();
            left = control->chunk ? (size_t)control->chunk : size;
        }
        n = left < size - given ? left : size - given;
        left -= n;
        given += n;
    } while (given < size && !control->short_reads);
    return given;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*function)(void *), void *argument)
{
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *),
                  void *) = dlsym(RTLD_NEXT, "pthread_create");

    return control && control->no_threads ?
           EAGAIN : create(thread, attributes, function, argument);
}

ssize_t read(int fd, void *buf, size_t size)
{
    struct stat st;
    ssize_t len;

    if (!control || fstat(fd, &st) < 0 || st.st_dev != file.st_dev ||
        (control->inode ? (int)st.st_ino != control->inode :
                          st.st_ino != file.st_ino)) {
        return real_read(fd, buf, size);
    }

    count(&control->calls, 1);
    count(&control->others, !is_reader());
    while (control->error < 0) {
        usleep(1000);
    }
    if (control->error) {
        errno = control->error;
        len = -1;
    } else {
        len = real_read(fd, buf, make(size));
        count(&control->bytes, len > 0 ? len : 0);
    }
    count(&control->ended, 1);
    return len;
}
