/*
 * Preloaded into a program: makes its reads of one file fail or take long
 *
 * FAILING_FILE names the file. FAILING_CONTROL names a file that the test
 * shares, with a struct Control; fields after the end of the file are 0.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define READERS 16

/**
 * struct Control - settings of the test, and counters for it
 * @error: the errno to fail with; 0: the file is read; -1: no read returns
 * @calls: the number of reads so far
 * @chunk: the source makes so many bytes at a time; 0: any number
 * @chunk_us: how many microseconds each chunk takes, even if only part is read
 * @chunks_most: the source makes no more chunks than that: a read that needs
 *               more does not return. Used only if @chunk is set
 * @chunks: the number of chunks so far
 * @bytes: the number of bytes so far
 * @ended: the number of reads that have returned
 * @readers: the ids of the first threads that have read; 0: free
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
    int readers[READERS];
} Control;

static struct stat file;
static volatile Control *control;
static ssize_t (*real_read)(int, void *, size_t);

__attribute__((constructor)) static void start(void)
{
    int fd = open(getenv("FAILING_CONTROL"), O_RDWR);

    real_read = dlsym(RTLD_NEXT, "read");
    /* The file may be shorter than the struct: the rest of its page is zero. */
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

static void sleep_us(int us)
{
    struct timespec time = { us / 1000000, us % 1000000 * 1000 };

    while (nanosleep(&time, &time) < 0) {
    }
}

static void note_reader(void)
{
    int tid = gettid();

    for (int i = 0; i < READERS; i++) {
        int expected = 0;

        if (__atomic_compare_exchange_n(&control->readers[i], &expected, tid, 0,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) ||
            expected == tid) {
            return;
        }
    }
}

static void make(size_t size)
{
    int chunk = control->chunk;

    for (size_t i = 0; chunk && i < size; i += chunk) {
        sleep_us(control->chunk_us);
        while (control->chunks >= control->chunks_most) {
            sleep_us(1000);
        }
        count(&control->chunks, 1);
    }
}

ssize_t read(int fd, void *buf, size_t size)
{
    struct stat st;
    ssize_t len;

    if (!control || fstat(fd, &st) < 0 ||
        st.st_dev != file.st_dev || st.st_ino != file.st_ino) {
        return real_read(fd, buf, size);
    }

    count(&control->calls, 1);
    note_reader();
    while (control->error < 0) {
        sleep_us(1000);
    }
    if (control->error) {
        errno = control->error;
        len = -1;
    } else {
        make(size);
        len = real_read(fd, buf, size);
        count(&control->bytes, len > 0 ? len : 0);
    }
    count(&control->ended, 1);
    return len;
}
