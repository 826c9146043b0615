/*
 * sPAPR random number generator: health tests of its source
 *
 * Three tests, each of which raises a false alarm with a probability of at most
 * 2^-64 for a word of a perfect source:
 *
 * - Repetition count (SP 800-90B, 4.4.1): two words in a row are the same. The
 *   probability is 2^-64.
 * - Adaptive proportion (SP 800-90B, 4.4.2) of the last byte of each word: 27
 *   or more words of a window of 512 end in the same byte as its first word.
 *   Each of the other 511 words does so with a probability of 1/256. The
 *   probability that 26 or more of them do is 2^-66.0; that 25 or more do,
 *   2^-62.2.
 * - Stuck bits: a bit is the same in all 512 words. The probability that this
 *   happens to any of the 64 bits is 64 * 2^-511. One stuck bit only doubles
 *   the probability of a byte, which is too little for the adaptive proportion
 *   test.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "hw/ppc/spapr_rng_health.h"

#define WORD_SIZE sizeof(uint64_t)

static void window_begin(SpaprRngHealth *h, uint64_t first)
{
    h->sample = first;
    h->same = 0;
    h->ones = UINT64_MAX;
    h->zeros = UINT64_MAX;
}

/* Add words to the window. The loop has no branches, which makes it faster. */
static bool window_add(SpaprRngHealth *h, const uint8_t *data, size_t words)
{
    uint64_t ones = h->ones, zeros = h->zeros, last = h->last;
    unsigned same = h->same;
    bool repeats = false;

    for (size_t i = 0; i < words; i++) {
        uint64_t word = ldq_be_p(data + i * WORD_SIZE);

        repeats |= word == last;
        same += (uint8_t)word == h->sample;
        ones &= word;
        zeros &= ~word;
        last = word;
    }
    h->ones = ones;
    h->zeros = zeros;
    h->last = last;
    h->same = same;
    h->seen += words;
    return repeats;
}

/* Whether the words of the window so far are good */
static bool window_is_good(SpaprRngHealth *h, bool repeats)
{
    uint64_t stuck = h->ones | h->zeros;

    if (repeats) {
        snprintf(h->found, sizeof(h->found),
                 "the same word came twice in a row");
        return false;
    }
    if (h->same >= SPAPR_RNG_HEALTH_CUTOFF) {
        snprintf(h->found, sizeof(h->found), "%u of %u words end in 0x%02x",
                 h->same, h->seen, h->sample);
        return false;
    }
    if (h->seen == SPAPR_RNG_HEALTH_WINDOW && stuck) {
        snprintf(h->found, sizeof(h->found), "bit %d was the same in %u words",
                 ctz64(stuck), h->seen);
        return false;
    }
    return true;
}

bool spapr_rng_health_test(SpaprRngHealth *h, const uint8_t *data, size_t words)
{
    bool good = true;

    while (words) {
        size_t n = MIN(words, SPAPR_RNG_HEALTH_WINDOW - h->seen);
        bool repeats;

        if (!h->seen) {
            window_begin(h, ldq_be_p(data));
        }
        repeats = window_add(h, data, n);
        if (!window_is_good(h, repeats)) {
            h->failed = true;
            h->seen = 0;
            good = false;
        } else if (h->seen == SPAPR_RNG_HEALTH_WINDOW) {
            h->failed = false;
            h->seen = 0;
        }
        data += n * WORD_SIZE;
        words -= n;
    }
    return good;
}
