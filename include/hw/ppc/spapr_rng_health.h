/*
 * sPAPR random number generator: health tests of its source
 *
 * NIST SP 800-90B, section 4.4, requires that a source of entropy is tested for
 * as long as it is used. The tests find a source that has failed totally, such
 * as a dead hardware generator, or that never was random, such as /dev/zero.
 * The tests cannot tell random numbers from a pseudorandom sequence that an
 * attacker knows.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_RNG_HEALTH_H
#define HW_PPC_SPAPR_RNG_HEALTH_H

/* How many words make a window of the tests */
#define SPAPR_RNG_HEALTH_WINDOW 512

/* A window fails if so many of its words end in the byte of the first one */
#define SPAPR_RNG_HEALTH_CUTOFF 27

/**
 * struct SpaprRngHealth - the tests of one source
 * @failed: a fault was found, and no whole window has been good since
 * @found: the last fault, for a message
 * @seen: how many words of the current window have come
 * @same: how many words of the window end in @sample
 * @sample: the last byte of the window's first word
 * @ones: the bits that were 1 in all words of the window
 * @zeros: the bits that were 0 in all words of the window
 * @last: the previous word; 0 at first, so that a source of zeros fails at once
 *
 * All fields of a new source are zero. The owner of the structure does the
 * locking.
 */
typedef struct SpaprRngHealth {
    bool failed;
    char found[48];
    unsigned seen;
    unsigned same;
    uint8_t sample;
    uint64_t ones;
    uint64_t zeros;
    uint64_t last;
} SpaprRngHealth;

/**
 * spapr_rng_health_test:
 * @h: the tests of the source
 * @data: words of 8 bytes, in the order in which they came
 * @words: the number of words
 *
 * The guest may get the words only if no fault was found in them, and if
 * @failed was not set before.
 *
 * Returns: whether no fault was found in these words
 */
bool spapr_rng_health_test(SpaprRngHealth *h, const uint8_t *data,
                           size_t words);

#endif /* HW_PPC_SPAPR_RNG_HEALTH_H */
