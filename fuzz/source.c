/*
 * The source of a fuzzed machine: a FIFO or an EGD daemon
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "source.h"

/* The layout of struct Control in testlib/failing-read.c */
#define CONTROL_SIZE (24 * sizeof(int))
enum { ERROR, CALLS, CHUNK, CHUNK_US, CHUNKS_MOST };

static void check(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* How many words of the second stream are given at a time */
#define OTHER_WORDS 256

/* Fill the streams by splitmix64: no sequence of eight bytes occurs twice. */
static void fill(uint8_t *stream)
{
    for (uint64_t i = 0; i < STREAMS * SOURCE_MAX / 8; i++) {
        uint64_t z = (i + 1) * 0x9e3779b97f4a7c15;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        z ^= z >> 31;
        memcpy(stream + i * 8, &z, 8);
    }
}

static int fifo_open(const char *path)
{
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

    check(fd >= 0, path);
    return fd;
}

static void fifo_come_back(Source *s)
{
    if (s->fd < 0) {
        s->fd = fifo_open(s->path);
    }
}

static void egd_listen(Source *s)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (s->listener >= 0) {
        return;
    }
    strncpy(address.sun_path, s->path, sizeof(address.sun_path) - 1);
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                         0);
    check(bind(s->listener, (struct sockaddr *)&address,
               sizeof(address)) == 0, s->path);
    check(listen(s->listener, CONNECTIONS) == 0, "listen");
}

static void egd_hang_up(Source *s)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        if (s->connection[i] >= 0) {
            close(s->connection[i]);
            s->hang_ups++;
        }
        s->connection[i] = -1;
        s->owed[i] = 0;
    }
}

Source *source_new(const char *directory, bool egd)
{
    Source *s = calloc(1, sizeof(*s));
    int fd;

    fill(s->stream);
    s->egd = egd;
    s->fd = s->listener = -1;
    memset(s->connection, -1, sizeof(s->connection));
    check(asprintf(&s->path, "%s/source", directory) > 0, "asprintf");
    check(asprintf(&s->other_path, "%s/other", directory) > 0, "asprintf");
    check(asprintf(&s->control_path, "%s/control", directory) > 0, "asprintf");
    fd = open(s->control_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    check(fd >= 0 && ftruncate(fd, CONTROL_SIZE) == 0, s->control_path);
    s->control = mmap(NULL, CONTROL_SIZE, PROT_READ | PROT_WRITE,
                      MAP_SHARED, fd, 0);
    check(s->control != MAP_FAILED, "mmap");
    close(fd);
    check(egd || mkfifo(s->path, 0600) == 0, s->path);
    check(mkfifo(s->other_path, 0600) == 0, s->other_path);
    s->other_fd = fifo_open(s->other_path);
    source_heal(s);
    return s;
}

void source_free(Source *s)
{
    source_end(s);
    if (!s->egd) {
        unlink(s->path);
    }
    close(s->other_fd);
    unlink(s->other_path);
    free(s->other_path);
    unlink(s->control_path);
    munmap((void *)s->control, CONTROL_SIZE);
    free(s->control_path);
    free(s->path);
    free(s);
}

static bool egd_request(Source *s, int i)
{
    uint8_t request[2];
    ssize_t len = recv(s->connection[i], request, 2, 0);

    if (len < 0 && errno == EAGAIN) {
        return false;
    }
    if (len != 2 || request[0] != 2) {
        close(s->connection[i]);
        s->connection[i] = -1;
        s->owed[i] = 0;
        return false;
    }
    s->owed[i] += request[1];
    return true;
}

static void egd_give(Source *s, int i)
{
    int size = s->owed[i] < s->credit ? s->owed[i] : s->credit;

    size = size < SOURCE_MAX - s->given ? size : SOURCE_MAX - s->given;
    if (size <= 0) {
        return;
    }
    size = send(s->connection[i], s->stream + s->given, size, MSG_NOSIGNAL);
    if (size > 0) {
        s->given += size;
        s->owed[i] -= size;
        s->credit -= size;
    }
}

void source_serve(Source *s)
{
    for (int i = 0; s->listener >= 0 && i < CONNECTIONS; i++) {
        if (s->connection[i] < 0) {
            s->connection[i] = accept4(s->listener, NULL, NULL,
                                       SOCK_NONBLOCK | SOCK_CLOEXEC);
        }
        while (s->connection[i] >= 0 && egd_request(s, i)) {
        }
        if (s->connection[i] >= 0) {
            egd_give(s, i);
        }
    }
}

void source_feed(Source *s, int size)
{
    if (s->egd) {
        s->credit += size;
        source_serve(s);
        return;
    }

    fifo_come_back(s);
    size = size < SOURCE_MAX - s->given ? size : SOURCE_MAX - s->given;
    size = write(s->fd, s->stream + s->given, size);
    s->given += size > 0 ? size : 0;
}

void source_feed_bad(Source *s, int words, bool stuck)
{
    int start = s->given + (s->egd ? s->credit : 0);
    int room = (SOURCE_MAX - start) / 8;
    uint8_t *first = s->stream + start;

    words = words < room ? words : room;
    for (int i = 1; i < words; i++) {
        memcpy(first + i * 8, first, stuck ? 1 : 8);
    }
    if (!stuck && words > 0) {
        memset(s->repeats + start, true, words * 8);
    }
    s->bad_end = start + words * 8;
    source_feed(s, words * 8);
}

void source_feed_other(Source *s)
{
    int size = OTHER_WORDS * 8;
    int room = SOURCE_MAX - s->other_given;

    size = size < room ? size : room;
    size = write(s->other_fd, s->stream + SOURCE_MAX + s->other_given, size);
    s->other_given += size > 0 ? size : 0;
}

void source_slow(Source *s, int ms)
{
    s->control[CHUNKS_MOST] = INT_MAX;
    s->control[CHUNK_US] = ms * 1000;
    s->control[CHUNK] = INT_MAX;
}

void source_hang(Source *s)
{
    s->control[ERROR] = -1;
}

void source_end(Source *s)
{
    if (s->egd) {
        egd_hang_up(s);
        if (s->listener >= 0) {
            close(s->listener);
            unlink(s->path);
            s->listener = -1;
        }
    } else if (s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
}

void source_fail(Source *s)
{
    if (s->egd) {
        egd_hang_up(s);
    } else {
        s->control[ERROR] = EIO;
    }
}

void source_heal(Source *s)
{
    s->control[ERROR] = 0;
    s->control[CHUNK] = 0;
    if (s->egd) {
        egd_listen(s);
        source_serve(s);
    } else {
        fifo_come_back(s);
    }
}

int source_unread(Source *s)
{
    int size;

    if (s->egd) {
        return s->credit;
    }
    if (s->fd < 0) {
        return 0;
    }
    check(ioctl(s->fd, FIONREAD, &size) == 0, "FIONREAD");
    return size;
}

bool source_is_low(Source *s)
{
    return s->given > SOURCE_MAX / 2 || s->other_given > SOURCE_MAX / 2;
}

int source_find(Source *s, const uint8_t value[8])
{
    uint8_t *found = memmem(s->stream, s->given, value, 8);

    if (!found) {
        found = memmem(s->stream + SOURCE_MAX, s->other_given, value, 8);
    }
    return found ? found - s->stream : -1;
}
