/*
 * sPAPR random number generator: health tests of its source
 *
 * NIST SP 800-90B, section 4.4, describes tests that a source of entropy goes
 * through for as long as it is used. They find a source that has failed
 * totally, such as a dead hardware generator, or that never was random, such as
 * /dev/zero. They cannot tell random numbers from a pseudorandom sequence that
 * an attacker knows.
 *
 * Section 4.3 also wants 1,024 samples to be tested at the start. These tests
 * take fewer, since a guest that boots waits for them, perhaps for seconds.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_RNG_HEALTH_H
#define HW_PPC_SPAPR_RNG_HEALTH_H

/* How many words of a new source must be good before any is handed out */
#define SPAPR_RNG_HEALTH_STARTUP 72

/* How many words make a window of the tests */
#define SPAPR_RNG_HEALTH_WINDOW 512

/* A window fails if this many words share the first word's last byte */
#define SPAPR_RNG_HEALTH_CUTOFF 27

/**
 * struct SpaprRngHealth - the tests of one source
 * @left: how many words in a row must still be good before any is handed out
 * @penalty: how many good words a fault costs, rounded up to whole windows,
 *           before SPAPR_RNG_HEALTH_STARTUP words more. Doubles with the first
 *           fault after words were handed out, and shrinks slowly.
 * @found: the last fault, for a message
 * @seen: how many words of the current window have come
 * @same: how many words of the window end in @sample
 * @sample: the last byte of the window's first word
 * @ones: how many bits of the window's first words were 1
 * @all_and: all of the window's first words, combined with AND
 * @all_or: the same with OR
 * @last: the latest word, and the latest one at a multiple of 2, 4 and 8 words
 *        from the start of the window; 0 at first, so that a source of zeros
 *        fails at once
 *
 * The owner of the structure does the locking.
 */
typedef struct SpaprRngHealth {
    unsigned left;
    unsigned penalty;
    char found[48];
    unsigned seen;
    unsigned same;
    uint8_t sample;
    unsigned ones;
    uint64_t all_and;
    uint64_t all_or;
    uint64_t last[4];
} SpaprRngHealth;

/**
 * spapr_rng_health_init:
 * @h: the tests of a new source
 */
void spapr_rng_health_init(SpaprRngHealth *h);

/**
 * spapr_rng_health_test:
 * @h: the tests of the source
 * @data: words of 8 bytes, in the order in which they came
 * @words: the number of words
 *
 * The guest may get the words once @left is 0. After a fault, it must not get
 * any of the words so far, whether they were in this call or in earlier ones.
 *
 * Returns: false if a fault was found. The words after it were not tested.
 */
bool spapr_rng_health_test(SpaprRngHealth *h, const uint8_t *data,
                           size_t words);

#endif /* HW_PPC_SPAPR_RNG_HEALTH_H */
