/*
 * Run the device's health tests on the words of standard input
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
#include "hw/ppc/spapr_rng_health.h"

int main(void)
{
    static uint8_t data[512 * 8]; /* as in the device's pool */
    SpaprRngHealth health;
    size_t words;

    spapr_rng_health_init(&health);
    while ((words = fread(data, 8, sizeof(data) / 8, stdin))) {
        if (!spapr_rng_health_test(&health, data, words)) {
            fprintf(stderr, "%s\n", health.found);
            return 1;
        }
    }
    return 0;
}
