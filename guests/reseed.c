/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Have Linux reseed its random number generator, as a guest must that was
 * restored from a state from which another guest is restored, too.
 */

#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(void)
{
    int random = open("/dev/urandom", O_WRONLY);

    if (random < 0 || ioctl(random, RNDRESEEDCRNG)) {
        perror("RNDRESEEDCRNG");
        return 1;
    }
    return 0;
}
