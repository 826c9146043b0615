/*
 * sPAPR random number generator: health tests of its source
 *
 * The probabilities are those of a false alarm with a perfect source;
 * tests/unit/test-spapr-rng-health.c computes them.
 *
 * - Repetition count (SP 800-90B, 4.4.1): a word is the same as the one before
 *   it: 2^-64 for each word. To notice a chunk of 16, 32 or 64 bytes that is
 *   delivered twice, each second word is compared with the one 2 before it,
 *   each fourth with the one 4 before it, and each eighth with the one 8 before
 *   it. In all, that is less than 2^-63 for each word.
 * - Adaptive proportion (SP 800-90B, 4.4.2) of the last byte of each word: 27
 *   or more words of a window of 512 end in the same byte as its first word:
 *   2^-66.0 for each window.
 * - Stuck bits: a bit is the same in the first 72 words of a window:
 *   64 * 2^-71 = 2^-65. Text, clocks, counters, and words that are only partly
 *   random have such bits.
 * - Ones: of the 4608 bits of these 72 words, less than 1994 or more than 2614
 *   are 1: 2^-64.1.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "hw/ppc/spapr_rng_health.h"

#define WORD_SIZE sizeof(uint64_t)

/* The first words of a window, in which bits are counted */
#define HEAD SPAPR_RNG_HEALTH_STARTUP
#define HEAD_BITS (HEAD * 64)
#define ONES_MIN 1994

#define PENALTY_MIN (SPAPR_RNG_HEALTH_WINDOW / 2)
#define PENALTY_MAX (16 * SPAPR_RNG_HEALTH_WINDOW)

/* By how much each good window lowers the penalty */
#define PENALTY_STEP 8

static uint64_t word_at(const uint8_t *data, size_t i)
{
    return ldq_be_p(data + i * WORD_SIZE);
}

static void window_begin(SpaprRngHealth *h, uint64_t first)
{
    h->sample = first;
    h->same = 0;
    h->ones = 0;
    h->all_and = UINT64_MAX;
    h->all_or = 0;
}

/*
 * Whether a word equals the one before it; also count words like @sample. The
 * loops here and below have no branches, which makes them faster.
 */
static bool compare_words(SpaprRngHealth *h, const uint8_t *data, size_t words)
{
    uint64_t last = h->last[0];
    unsigned same = h->same;
    bool found = false;

    for (size_t i = 0; i < words; i++) {
        uint64_t word = word_at(data, i);

        found |= word == last;
        same += (uint8_t)word == h->sample;
        last = word;
    }
    h->last[0] = last;
    h->same = same;
    return found;
}

/* Whether a word at a multiple of @lag equals the one @lag words before. */
static bool compare_chunks(SpaprRngHealth *h, const uint8_t *data, size_t words,
                           unsigned lag)
{
    unsigned k = ctz32(lag);
    uint64_t last = h->last[k];
    bool found = false;

    for (size_t i = -h->seen % lag; i < words; i += lag) {
        uint64_t word = word_at(data, i);

        found |= word == last;
        last = word;
    }
    h->last[k] = last;
    return found;
}

/* Whether words repeat earlier ones: returns how much earlier, or 0. */
static unsigned find_repeat(SpaprRngHealth *h, const uint8_t *data,
                            size_t words)
{
    unsigned found = 0;

    for (unsigned lag = 8; lag > 1; lag /= 2) {
        found = compare_chunks(h, data, words, lag) ? lag : found;
    }
    return compare_words(h, data, words) ? 1 : found;
}

static void count_bits(SpaprRngHealth *h, const uint8_t *data, size_t words)
{
    uint64_t all_and = h->all_and, all_or = h->all_or;
    unsigned ones = h->ones;

    for (size_t i = 0; i < words; i++) {
        uint64_t word = word_at(data, i);

        all_and &= word;
        all_or |= word;
        ones += ctpop64(word);
    }
    h->all_and = all_and;
    h->all_or = all_or;
    h->ones = ones;
}

/* Whether the first words of a window are good, once they have come */
static bool head_is_good(SpaprRngHealth *h)
{
    uint64_t stuck = h->all_and | ~h->all_or;

    if (h->seen != HEAD) {
        return true;
    }
    if (stuck) {
        snprintf(h->found, sizeof(h->found), "bit %d was the same in %d words",
                 ctz64(stuck), HEAD);
        return false;
    }
    if (h->ones < ONES_MIN || h->ones > HEAD_BITS - ONES_MIN) {
        snprintf(h->found, sizeof(h->found), "%u of %d bits were 1", h->ones,
                 HEAD_BITS);
        return false;
    }
    return true;
}

/* Add words to the window. They must not go beyond its head, nor its end. */
static bool window_add(SpaprRngHealth *h, const uint8_t *data, size_t words)
{
    unsigned lag = find_repeat(h, data, words);

    if (h->seen < HEAD) {
        count_bits(h, data, words);
    }
    h->seen += words;

    if (lag) {
        snprintf(h->found, sizeof(h->found), "a word equals the one %u before",
                 lag);
        return false;
    }
    if (h->same >= SPAPR_RNG_HEALTH_CUTOFF) {
        snprintf(h->found, sizeof(h->found), "%u of %u words end in 0x%02x",
                 h->same, h->seen, h->sample);
        return false;
    }
    return head_is_good(h);
}

/*
 * A source that fails soon after it has recovered must be good for longer. This
 * takes whole windows, so that the last words before @left is 0 are the first
 * ones of a window.
 */
static void fail(SpaprRngHealth *h)
{
    if (!h->left || h->penalty < SPAPR_RNG_HEALTH_WINDOW) {
        h->penalty = MIN(h->penalty * 2, PENALTY_MAX);
    }
    h->left = QEMU_ALIGN_UP(h->penalty, SPAPR_RNG_HEALTH_WINDOW) +
              SPAPR_RNG_HEALTH_STARTUP;
    h->seen = 0;
}

void spapr_rng_health_init(SpaprRngHealth *h)
{
    memset(h, 0, sizeof(*h));
    h->left = SPAPR_RNG_HEALTH_STARTUP;
    h->penalty = PENALTY_MIN;
}

bool spapr_rng_health_test(SpaprRngHealth *h, const uint8_t *data, size_t words)
{
    while (words) {
        unsigned end = h->seen < HEAD ? HEAD : SPAPR_RNG_HEALTH_WINDOW;
        size_t n = MIN(words, end - h->seen);

        if (!h->seen) {
            window_begin(h, word_at(data, 0));
        }
        if (!window_add(h, data, n)) {
            fail(h);
            return false;
        }
        if (h->seen == SPAPR_RNG_HEALTH_WINDOW) {
            h->seen = 0;
            h->penalty -= h->left ? 0 : MIN(h->penalty - PENALTY_MIN,
                                            PENALTY_STEP);
        }
        h->left -= MIN(h->left, n);
        data += n * WORD_SIZE;
        words -= n;
    }
    return true;
}
