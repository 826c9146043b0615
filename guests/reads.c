/*
 * In the Linux guest: measure how long reads of /dev/hwrng take
 *
 *   reads SIZE SECONDS START
 *
 * Reads SIZE bytes at a time, for SECONDS or SAMPLES times. 8 bytes are one
 * H_RANDOM call. Readers begin together, when the guest has been up for START
 * seconds. The output is in ticks of the time base: when the first read
 * began, when the last one ended, and how long each took.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES 65536

int main(int, char **argv)
{
    static char data[4096];
    static uint32_t ticks[SAMPLES];
    ssize_t size = atoi(argv[1]);
    uint64_t duration = atof(argv[2]) * 512000000;
    struct timespec begin = { .tv_sec = atoi(argv[3]) };
    int hwrng = open("/dev/hwrng", O_RDONLY);
    int count = 0;
    uint64_t start, end;

    clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &begin, NULL);
    start = __builtin_ppc_get_timebase();

    do {
        uint64_t before = __builtin_ppc_get_timebase();

        if (read(hwrng, data, size) != size) {
            err(1, "/dev/hwrng gave less than %zd bytes", size);
        }
        end = __builtin_ppc_get_timebase();
        ticks[count++] = end - before;
    } while (count < SAMPLES && end - start < duration);

    printf("%ju %ju", (uintmax_t)start, (uintmax_t)end);
    for (int i = 0; i < count; i++) {
        printf(" %u", ticks[i]);
    }
    putchar('\n');
    return 0;
}
