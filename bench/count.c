/*
 * Write the numbers from 1 on, each as eight bytes, most significant first
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <endian.h>
#include <stdint.h>
#include <unistd.h>

int main(void)
{
    static uint64_t words[8192];
    uint64_t next = 1;

    for (;;) {
        for (int i = 0; i < 8192; i++) {
            words[i] = htobe64(next++);
        }
        for (size_t done = 0; done < sizeof(words);) {
            ssize_t len = write(STDOUT_FILENO, (char *)words + done,
                                sizeof(words) - done);

            if (len < 0) {
                return 1;
            }
            done += len;
        }
    }
}
