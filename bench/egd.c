/*
 * An entropy gathering daemon for very many clients:  egd PATH [BYTES_PER_S]
 *
 * Answers each request 0x02 N with N bytes of the kernel's generator, and hangs
 * up after any other request. The clients take turns of one request each.
 * BYTES_PER_S limits the rate, as for a hardware generator.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 4096

static struct pollfd fds[MAX_FDS];
static uint8_t request[MAX_FDS];    /* the first byte of a request, or 0 */
static double bytes_per_second;
static struct timespec ready;

/* Sleep until hardware would have made all bytes that were given. */
static void wait_for_source(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec > ready.tv_sec ||
        (now.tv_sec == ready.tv_sec && now.tv_nsec > ready.tv_nsec)) {
        ready = now;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ready, NULL);
}

static void taken(int size)
{
    long ns = bytes_per_second ? size / bytes_per_second * 1e9 : 0;

    ready.tv_sec += (ready.tv_nsec + ns) / 1000000000;
    ready.tv_nsec = (ready.tv_nsec + ns) % 1000000000;
}

/* Serve a request. Returns 0 if the connection has to be closed. */
static int serve(int i)
{
    uint8_t in[2], out[255];
    int size = recv(fds[i].fd, in, request[i] ? 1 : 2, 0);

    if (size <= 0) {
        return 0;
    }
    if (!request[i]) {
        if (in[0] != 2) {
            return 0;
        }
        if (size == 1) {
            request[i] = in[0];
            return 1;
        }
        in[0] = in[1];
    }
    request[i] = 0;
    size = in[0];
    taken(size);
    /* A client asks for fewer bytes than its socket can hold. */
    return getrandom(out, size, 0) == size &&
           send(fds[i].fd, out, size, MSG_DONTWAIT | MSG_NOSIGNAL) == size;
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int count = 1;

    if (argc < 2 || strlen(argv[1]) >= sizeof(address.sun_path)) {
        fputs("egd: give the path of a socket, and bytes per second\n",
              stderr);
        return 1;
    }
    bytes_per_second = argc > 2 ? atof(argv[2]) : 0;
    strcpy(address.sun_path, argv[1]);
    fds[0].fd = socket(AF_UNIX, SOCK_STREAM, 0);
    fds[0].events = POLLIN;
    if (bind(fds[0].fd, (void *)&address, sizeof(address)) ||
        listen(fds[0].fd, 128)) {
        perror("egd");
        return 1;
    }

    for (int turn = 0;;) {
        if (bytes_per_second) {
            wait_for_source();
        }
        poll(fds, count, -1);
        if (fds[0].revents && count < MAX_FDS) {
            fds[count].fd = accept(fds[0].fd, NULL, NULL);
            fds[count].events = POLLIN;
            fds[count].revents = 0;
            request[count] = 0;
            count++;
        }
        for (int left = count - 1; left > 0; left--) {
            turn = turn < count - 1 ? turn + 1 : 1;
            if (!fds[turn].revents) {
                continue;
            }
            if (!serve(turn)) {
                close(fds[turn].fd);
                fds[turn] = fds[--count];
                request[turn] = request[count];
                break;
            }
            /* The client that was served must have the time to ask again. */
            if (bytes_per_second) {
                break;
            }
        }
    }
}
