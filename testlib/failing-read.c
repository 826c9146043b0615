/*
 * Preloaded into a program: makes its reads of one file fail or take long
 *
 * A slow file is like Linux's /dev/hwrng: rng_dev_read() of
 * drivers/char/hw_random/core.c waits until it has all bytes that were asked
 * for, and keeps what is left of the last chunk. With @short_reads, a read
 * ends earlier, as that of a pipe or a serial port.
 *
 * FAILING_CONTROL names a file with a struct Control, which the test shares.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <unistd.h>

/* Settings of the test, and counters for it: see slow_source.py */
typedef struct Control {
    atomic_llong inode;         /* of the file, which is beside this one */
    atomic_llong error;         /* to fail with; 0: none; -1: reads hang */
    atomic_llong no_threads;    /* the program cannot make threads */
    atomic_llong chunk;         /* made at a time, in bytes; 0: any number */
    atomic_llong chunk_us;      /* how long a chunk takes */
    atomic_llong chunks_most;   /* a read that needs more chunks hangs */
    atomic_llong short_reads;   /* a read does not wait for a second chunk */
    atomic_llong chunks;        /* so far */
    atomic_llong reads;         /* in progress */
    atomic_llong others;        /* reads so far, but for QEMU's readers */
} Control;

static struct stat file;        /* of FAILING_CONTROL */
static Control *control;

__attribute__((constructor)) static void start(void)
{
    int fd = open(getenv("FAILING_CONTROL"), O_RDWR);

    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
                   MAP_SHARED, fd, 0);
    if (fstat(fd, &file) < 0 || control == MAP_FAILED) {
        abort();
    }
    close(fd);
}

/*
 * QEMU names these threads, which never have the BQL. A read by another thread
 * may stop the machine, however short it is.
 */
static bool is_reader(void)
{
    char name[16];

    return pthread_getname_np(pthread_self(), name, sizeof(name)) == 0 &&
           strncmp(name, "RNG ", 4) == 0;
}

/* Wait for chunks. Returns how many bytes of @size the read gives. */
static size_t make(size_t size)
{
    static _Thread_local size_t left;    /* of the last chunk */
    size_t given = 0, n;

    while (control->chunk && given < (control->short_reads ? 1 : size)) {
        if (!left) {
            usleep(control->chunk_us);
            while (control->chunks >= control->chunks_most) {
                usleep(1000);
            }
            control->chunks++;
            left = control->chunk;
        }
        n = MIN(left, size - given);
        left -= n;
        given += n;
    }
    return given ?: size;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*function)(void *), void *argument)
{
    typeof(pthread_create) *create = dlsym(RTLD_NEXT, "pthread_create");

    return control && control->no_threads ?
           EAGAIN : create(thread, attributes, function, argument);
}

ssize_t read(int fd, void *buf, size_t size)
{
    typeof(read) *real_read = dlsym(RTLD_NEXT, "read");
    struct stat st;
    ssize_t len = -1;

    if (!control || fstat(fd, &st) < 0 || st.st_dev != file.st_dev ||
        (long long)st.st_ino != control->inode) {
        return real_read(fd, buf, size);
    }

    control->reads++;
    control->others += !is_reader();
    while (control->error < 0) {
        usleep(1000);
    }
    if (control->error) {
        errno = control->error;
    } else {
        len = real_read(fd, buf, make(size));
    }
    control->reads--;
    return len;
}
