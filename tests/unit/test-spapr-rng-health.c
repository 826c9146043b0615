/*
 * Test the health tests of spapr-rng, and compute how often they are wrong
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include <math.h>
#include "hw/ppc/spapr_rng_health.h"

#define STARTUP SPAPR_RNG_HEALTH_STARTUP
#define WINDOW SPAPR_RNG_HEALTH_WINDOW
#define CUTOFF SPAPR_RNG_HEALTH_CUTOFF
#define MOST (1 << 16) /* words */

static uint8_t data[MOST * 8];
static uint64_t seed;

/* A good source: splitmix64 */
static uint64_t good_word(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static void set_word(size_t i, uint64_t word)
{
    stq_be_p(data + i * 8, word);
}

static uint64_t get_word(size_t i)
{
    return ldq_be_p(data + i * 8);
}

static void good_words(size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        set_word(i, good_word());
    }
}

/* How many words are good, if each is tested by itself */
static size_t count_good(SpaprRngHealth *h, size_t words)
{
    for (size_t i = 0; i < words; i++) {
        if (!spapr_rng_health_test(h, data + i * 8, 1)) {
            return i;
        }
    }
    return words;
}

/*
 * Check that a fault is found in the word with index @bad, at once or at the
 * end of a piece of random length; @bad == @words: nowhere.
 */
static void check_fault(size_t words, size_t bad, const char *found)
{
    SpaprRngHealth h;

    spapr_rng_health_init(&h);
    g_assert_cmpuint(count_good(&h, words), ==, bad);
    g_assert_cmpstr(h.found, ==, bad == words ? "" : found);

    for (int round = 0; round < 20; round++) {
        size_t i = 0, n;
        bool good = true;

        spapr_rng_health_init(&h);
        for (; i < words && good; i += n) {
            n = MIN(good_word() % 600, words - i);
            good = spapr_rng_health_test(&h, data + i * 8, n);
        }
        g_assert_cmpint(good, ==, bad == words);
        g_assert_true(good || (i - n <= bad && bad < i));
    }
}

static void test_good(void)
{
    SpaprRngHealth h;

    spapr_rng_health_init(&h);
    for (int round = 0; round < 64; round++) {
        good_words(0, MOST);
        g_assert_true(spapr_rng_health_test(&h, data, MOST));
        g_assert_cmpuint(h.left, ==, 0);
    }
}

static void test_repeats(void)
{
    good_words(0, 2000);
    set_word(0, 0);
    check_fault(1, 0, "a word equals the one 1 before");

    for (size_t i = 1; i < 600; i += 37) {
        good_words(0, 2000);
        set_word(i, get_word(i - 1));
        check_fault(700, i, "a word equals the one 1 before");
    }

    /* A chunk is found by its first word at a multiple of its length. */
    for (size_t lag = 2; lag <= 8; lag *= 2) {
        for (size_t i = lag; i < 600; i += 37) {
            g_autofree char *found =
                g_strdup_printf("a word equals the one %zu before", lag);

            good_words(0, 2000);
            memcpy(data + i * 8, data + (i - lag) * 8, lag * 8);
            check_fault(700, ROUND_UP(i, lag), found);
        }
    }
}

/* Good words of which exactly those at multiples of @step end in 0x5a */
static void words_ending(size_t step, size_t words)
{
    for (size_t i = 0; i < words; i++) {
        uint64_t word = good_word() & ~0xffULL;

        set_word(i, word | (i % step ? (uint8_t)(0x5b + i % 251) : 0x5a));
    }
}

static void test_ends(void)
{
    words_ending(19, WINDOW);
    check_fault(WINDOW, 26 * 19, "27 of 495 words end in 0x5a");
    set_word(19, good_word() | 0xff);
    check_fault(WINDOW, WINDOW, NULL);

    /* Another window has another byte, of which it has as many. */
    words_ending(20, 2 * WINDOW);
    for (size_t i = WINDOW; i < 2 * WINDOW; i++) {
        set_word(i, (good_word() & ~0xffULL) |
                    (i % 20 == 12 ? 0x11 : 0x12 + i % 200));
    }
    check_fault(2 * WINDOW, 2 * WINDOW, NULL);
}

static void test_stuck(void)
{
    for (int bit = 0; bit < 64; bit += 9) {
        g_autofree char *found =
            g_strdup_printf("bit %d was the same in 72 words", bit);

        for (size_t first = 0; first <= WINDOW; first += WINDOW) {
            for (int value = 0; value < 2; value++) {
                good_words(0, 2 * WINDOW);
                for (size_t i = first; i < first + STARTUP; i++) {
                    set_word(i, deposit64(get_word(i), bit, 1, value));
                }
                check_fault(2 * WINDOW, first + STARTUP - 1, found);
                set_word(first + 50, get_word(first + 50) ^ 1ULL << bit);
                check_fault(2 * WINDOW, 2 * WINDOW, NULL);
            }
        }
    }
}

/* Good words of which the first 72 have exactly so many ones */
static void words_with_ones(int ones)
{
    int now = 0;

    good_words(0, WINDOW);
    for (size_t i = 0; i < STARTUP; i++) {
        now += ctpop64(get_word(i));
    }
    while (now != ones) {
        size_t i = good_word() % STARTUP;
        uint64_t bit = 1ULL << good_word() % 64;

        if (!(get_word(i) & bit) == (now < ones)) {
            set_word(i, get_word(i) ^ bit);
            now += now < ones ? 1 : -1;
        }
    }
}

static double log2_binomial(int n, int k, double p)
{
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / M_LN2 +
           k * log2(p) + (n - k) * log2(1 - p);
}

/* log2 of the probability of @k or more of @n */
static double log2_tail(int n, int k, double p)
{
    double sum = 0, first = log2_binomial(n, k, p);

    for (int i = k; i <= n; i++) {
        sum += exp2(log2_binomial(n, i, p) - first);
    }
    return first + log2(sum);
}

static void test_ones(void)
{
    const int bits = STARTUP * 64;
    const int most = 2614;

    words_with_ones(most + 1);
    check_fault(WINDOW, STARTUP - 1, "2615 of 4608 bits were 1");
    words_with_ones(bits - most - 1);
    check_fault(WINDOW, STARTUP - 1, "1993 of 4608 bits were 1");
    words_with_ones(most);
    check_fault(WINDOW, WINDOW, NULL);
    words_with_ones(bits - most);
    check_fault(WINDOW, WINDOW, NULL);

    /* The bounds are the tightest ones for 2^-64, on both sides together. */
    g_assert_cmpfloat(1 + log2_tail(bits, most + 1, 0.5), <=, -64);
    g_assert_cmpfloat(1 + log2_tail(bits, most, 0.5), >, -64);
    g_assert_cmpfloat(fabs(1 + log2_tail(bits, most + 1, 0.5) + 64.1), <, 0.05);
}

static void test_cutoff(void)
{
    const int others = WINDOW - 1;

    g_assert_cmpfloat(log2_tail(others, CUTOFF - 1, 1 / 256.0), <=, -64);
    g_assert_cmpfloat(log2_tail(others, CUTOFF - 2, 1 / 256.0), >, -64);
    g_assert_cmpfloat(fabs(log2_tail(others, CUTOFF - 1, 1 / 256.0) + 66), <,
                      0.05);
    /* 64 bits, which all the other words agree with */
    g_assert_cmpint(6 - (STARTUP - 1), <=, -64);
}

/* Sources that are not random, or not enough: byte i, as often as wanted */

static uint8_t digits(size_t i)
{
    return '0' + good_word() % 10;
}

static uint8_t nibbles(size_t i)
{
    return good_word() & 0xf;
}

static uint8_t one_in_four(size_t i)
{
    return i % 4 == 1 ? good_word() : 0;
}

static uint8_t one_in_eight(size_t i)
{
    return i % 8 == 6 ? good_word() : 0;
}

static uint8_t base64(size_t i)
{
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
           [good_word() % 64];
}

static uint8_t hexadecimal(size_t i)
{
    return "0123456789abcdef"[good_word() % 16];
}

static uint8_t seven_bits(size_t i)
{
    return good_word() & 0x7f;
}

static const char text[] =
    "A guest makes its keys of the first words that it gets, so that a source "
    "has to be tested before. This text, which is long enough for a start, is "
    "not random at all: all of its bytes have one bit in common, although the "
    "letters change. Other texts are no better, in whatever language they are "
    "written, as long as their letters are encoded in seven bits. Those which "
    "need eight bits have others in common: a byte that begins a letter, and "
    "a byte that ends it, differ. How long the text is does not matter: after "
    "the first five hundred and seventy-six bytes, the source has failed, and "
    "the guest waits for another one.";

static uint8_t english(size_t i)
{
    return text[i % (sizeof(text) - 1)];
}

static uint8_t utf16(size_t i)
{
    return i % 2 ? english(i / 2) : 0;
}

/* Byte i of numbers of @size bytes, with the most significant one first */
static uint8_t byte_of(uint64_t number, size_t size, size_t i)
{
    return number >> 8 * (size - 1 - i % size);
}

static uint8_t counter64(size_t i)
{
    return byte_of(i / 8 + 12345678, 8, i);
}

static uint8_t counter32_le(size_t i)
{
    return byte_of(i / 4 + 12345678, 4, i ^ 3);
}

/* Nanoseconds since 1970, read each 5 to 6 ms */
static uint8_t clock_ns(size_t i)
{
    static uint64_t now;

    now = i ? now + (i % 8 ? 0 : 5000000 + good_word() % 1000000) :
              1795800000000000000;
    return byte_of(now, 8, i);
}

static uint8_t biased(size_t i)
{
    uint8_t byte = 0;

    for (int bit = 0; bit < 8; bit++) {
        byte = byte << 1 | (good_word() % 10 != 0);
    }
    return byte;
}

static const struct BadSource {
    const char *name;
    uint8_t (*byte)(size_t i);
} bad_sources[] = {
    { "digits", digits },
    { "nibbles", nibbles },
    { "one-byte-in-four", one_in_four },
    { "one-byte-in-eight", one_in_eight },
    { "base64", base64 },
    { "hexadecimal", hexadecimal },
    { "seven-bits", seven_bits },
    { "english", english },
    { "utf-16", utf16 },
    { "counter-64", counter64 },
    { "counter-32-le", counter32_le },
    { "clock", clock_ns },
    { "biased", biased },
};

/* No word of a bad source is ever let through, however long it goes on. */
static void test_bad_source(const void *opaque)
{
    const struct BadSource *source = opaque;
    SpaprRngHealth h;
    int faults = 0;

    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = source->byte(i);
    }
    spapr_rng_health_init(&h);
    for (size_t i = 0; i < MOST; i++) {
        faults += !spapr_rng_health_test(&h, data + i * 8, 1);
        g_assert_cmpuint(h.left, >, 0);
    }
    g_assert_cmpint(faults, >=, MOST / WINDOW);
}

static void fail_once(SpaprRngHealth *h, unsigned left)
{
    static const uint8_t zeros[16];

    g_assert_false(spapr_rng_health_test(h, zeros, 2));
    g_assert_cmpuint(h->left, ==, left);
}

/* How many good words it takes until words are let through */
static unsigned recovery(SpaprRngHealth *h)
{
    unsigned words = 0;

    while (h->left) {
        good_words(0, 1);
        g_assert_true(spapr_rng_health_test(h, data, 1));
        words++;
    }
    return words;
}

static void test_penalty(void)
{
    SpaprRngHealth h;
    unsigned words = WINDOW;

    spapr_rng_health_init(&h);
    g_assert_cmpuint(recovery(&h), ==, STARTUP);
    for (int faults = 0; faults < 7; faults++) {
        fail_once(&h, words + STARTUP);
        fail_once(&h, words + STARTUP);
        g_assert_cmpuint(recovery(&h), ==, words + STARTUP);
        words = MIN(2 * words, 16 * WINDOW);
    }

    /* After some 500,000 good words, the faults are forgotten. */
    for (int i = 0; i < 8; i++) {
        good_words(0, MOST);
        g_assert_true(spapr_rng_health_test(&h, data, MOST));
    }
    fail_once(&h, WINDOW + STARTUP);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/spapr-rng-health/good", test_good);
    g_test_add_func("/spapr-rng-health/repeats", test_repeats);
    g_test_add_func("/spapr-rng-health/ends", test_ends);
    g_test_add_func("/spapr-rng-health/stuck", test_stuck);
    g_test_add_func("/spapr-rng-health/ones", test_ones);
    g_test_add_func("/spapr-rng-health/cutoff", test_cutoff);
    g_test_add_func("/spapr-rng-health/penalty", test_penalty);
    for (int i = 0; i < ARRAY_SIZE(bad_sources); i++) {
        g_autofree char *path = g_strdup_printf("/spapr-rng-health/bad/%s",
                                                bad_sources[i].name);

        g_test_add_data_func(path, &bad_sources[i], test_bad_source);
    }
    return g_test_run();
}
