/*
 * sPAPR random number generator: health tests of its source
 *
 * NIST SP 800-90B, section 4.4, asks of every source of entropy that it is
 * tested for as long as it is used. The tests find a source that has failed
 * totally, such as a dead hardware generator, or one that never was one, such
 * as /dev/zero. They cannot tell good random numbers from cleverly bad ones.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_RNG_HEALTH_H
#define HW_PPC_SPAPR_RNG_HEALTH_H

/* How many words the tests look at together */
#define SPAPR_RNG_HEALTH_WINDOW 512

/* With so many words of a window that end in the same byte, it fails */
#define SPAPR_RNG_HEALTH_CUTOFF 27

/**
 * struct SpaprRngHealth - the tests of one source
 * @failed: a fault was found, and no whole window of words without one since
 * @found: what was found last, for a message
 * @seen: how many words of this window have come
 * @same: how many of them end in the same byte as the first one
 * @sample: that byte
 * @ones: the bits that were 1 in all of them
 * @zeros: the bits that were 0 in all of them
 * @last: the word before; at first 0, so that a source of zeros fails at once
 *
 * All zero is the state of a source that nothing is known of. The owner of the
 * structure sees to locking.
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
 * @data: words of 8 bytes in the order in which they came
 * @words: how many there are
 *
 * The guest may have these words if nothing was found in them, and if @failed
 * was not set before.
 *
 * Returns: whether nothing was found in these words
 */
bool spapr_rng_health_test(SpaprRngHealth *h, const uint8_t *data,
                           size_t words);

#endif /* HW_PPC_SPAPR_RNG_HEALTH_H */
