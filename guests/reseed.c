/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Have Linux reseed its random number generator again and again. Each time, it
 * makes four H_RANDOM calls.
 */

#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(void)
{
    int random = open("/dev/urandom", O_WRONLY);

    while (ioctl(random, RNDRESEEDCRNG) == 0) {
    }
    perror("RNDRESEEDCRNG");
    return 1;
}
