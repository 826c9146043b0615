/*
 * Preloaded into QEMU: counts what it reads of one file, and makes that fail
 *
 * FAILING_FILE names the file. FAILING_CONTROL names another one, of two ints
 * that the test shares: the errno to fail with, 0 to have the file read, and
 * the number of calls so far.
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
#include <unistd.h>

static struct stat file;
static volatile int *control;
static ssize_t (*real_read)(int, void *, size_t);

__attribute__((constructor)) static void start(void)
{
    int fd = open(getenv("FAILING_CONTROL"), O_RDWR);

    real_read = dlsym(RTLD_NEXT, "read");
    control = mmap(NULL, 2 * sizeof(*control), PROT_READ | PROT_WRITE,
                   MAP_SHARED, fd, 0);
    if (stat(getenv("FAILING_FILE"), &file) < 0 || control == MAP_FAILED) {
        abort();
    }
    close(fd);
}

ssize_t read(int fd, void *buf, size_t size)
{
    struct stat st;

    if (control && fstat(fd, &st) == 0 &&
        st.st_dev == file.st_dev && st.st_ino == file.st_ino) {
        __atomic_add_fetch(&control[1], 1, __ATOMIC_SEQ_CST);
        if (control[0]) {
            errno = control[0];
            return -1;
        }
    }
    return real_read(fd, buf, size);
}
