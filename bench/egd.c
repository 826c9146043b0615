/*
 * An entropy gathering daemon for very many clients:  egd BYTES_PER_S
 *
 * Standard input is the socket that clients connect to. The daemon answers each
 * request 0x02 N with N bytes of the kernel's generator. The clients take turns
 * of one request each. BYTES_PER_S limits the rate, as for a hardware
 * generator; 0 is no limit.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 4096

static struct pollfd fds[MAX_FDS] = {
    { .fd = STDIN_FILENO, .events = POLLIN }
};
static double bytes_per_second;

/* Sleep until hardware would have made all bytes that were given. */
static void wait_for_source(int size)
{
    static double ready;
    struct timespec ts;
    double now;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    now = ts.tv_sec + ts.tv_nsec / 1e9;
    ready += size / bytes_per_second;
    if (ready > now) {
        usleep((ready - now) * 1e6);
    } else {
        ready = now;
    }
}

/* Serve a request, if there is one. Returns 0 if the client has hung up. */
static int serve(int fd)
{
    uint8_t request[2], out[255];
    int size = recv(fd, request, 2, MSG_DONTWAIT);

    if (size != 2) {
        return size < 0 && errno == EAGAIN;
    }
    /* A client asks for fewer bytes than its socket can hold. */
    if (getrandom(out, request[1], 0) != request[1] ||
        send(fd, out, request[1], MSG_NOSIGNAL) != request[1]) {
        return 0;
    }
    if (bytes_per_second) {
        wait_for_source(request[1]);
    }
    return 1;
}

int main(int, char **argv)
{
    int count = 1;

    bytes_per_second = atof(argv[1]);

    for (;;) {
        poll(fds, count, -1);
        for (int i = count - 1; i > 0; i--) {
            /* At a low rate, a client may have asked since poll(). */
            if ((fds[i].revents || bytes_per_second) && !serve(fds[i].fd)) {
                close(fds[i].fd);
                fds[i] = fds[--count];
            }
        }
        if (fds[0].revents && count < MAX_FDS) {
            fds[count].fd = accept(fds[0].fd, NULL, NULL);
            fds[count++].events = POLLIN;
        }
    }
}
