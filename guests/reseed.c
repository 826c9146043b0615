/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Have Linux reseed its random number generator, as a guest must that was
 * restored from a state from which another guest is restored, too. Each time,
 * Linux also makes four H_RANDOM calls. The argument is how often (default: 1).
 */

#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
    int random = open("/dev/urandom", O_WRONLY);

    for (int times = argc > 1 ? atoi(argv[1]) : 1; times; times--) {
        if (random < 0 || ioctl(random, RNDRESEEDCRNG)) {
            perror("RNDRESEEDCRNG");
            return 1;
        }
    }
    return 0;
}
