/*
 * Run the device's health tests on the words of a source
 *
 * usage: good-words COUNT < SOURCE
 *
 * Linked with QEMU's object of hw/ppc/spapr_rng_health.c. Exit status 1: a test
 * raised an alarm, and its message is on standard error.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "hw/ppc/spapr_rng_health.h"

#define WORDS 512 /* at a time, as in the device's pool */

int main(int argc, char **argv)
{
    long long left = argc == 2 ? atoll(argv[1]) : 0;
    static uint8_t data[WORDS * 8];
    SpaprRngHealth health;

    if (left <= 0) {
        fprintf(stderr, "usage: good-words COUNT < SOURCE\n");
        return 2;
    }
    spapr_rng_health_init(&health);
    while (left) {
        size_t words = left < WORDS ? left : WORDS;

        if (fread(data, 8, words, stdin) != words) {
            fprintf(stderr, "the source has ended\n");
            return 2;
        }
        if (!spapr_rng_health_test(&health, data, words)) {
            fprintf(stderr, "%s\n", health.found);
            return 1;
        }
        left -= words;
    }
    return 0;
}
