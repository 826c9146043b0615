/*
 * sPAPR random number generator: how much of its source a guest may use up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/ppc/spapr_rng_pool.h"
#include "hw/ppc/spapr_rng_quota.h"
#include "system/replay.h"

#define WORD_SIZE SPAPR_RNG_WORD_SIZE

/* How much of its quota a guest can save up */
#define BURST_NS (50 * SCALE_MS)

/* How often a guest that waits for its quota is woken */
#define WAKE_NS SCALE_MS

/* The time between two words of a guest that uses up its quota */
static int64_t word_ns(SpaprRngQuota *quota)
{
    return DIV_ROUND_UP((int64_t)quota->period * SCALE_MS * WORD_SIZE,
                        quota->max_bytes);
}

/*
 * A word is due word_ns() after the previous word was due, not after it was
 * taken: so a vCPU that wakes up late does not lower the rate. A guest loses
 * words that it does not take for BURST_NS.
 */
bool spapr_rng_quota_word_is_due(SpaprRngQuota *quota)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);

    /* "loadvm" can set the clock back. */
    quota->word_due = MIN(quota->word_due, now + word_ns(quota));
    quota->word_due = MAX(quota->word_due, now - BURST_NS);
    if (quota->word_due <= now) {
        return true;
    }
    timer_mod_anticipate_ns(quota->timer, MAX(quota->word_due, now + WAKE_NS));
    return false;
}

unsigned spapr_rng_quota_words_due(SpaprRngQuota *quota)
{
    int64_t late = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) - quota->word_due;

    return late < 0 ? 0 : MIN(late / word_ns(quota) + 1, UINT_MAX);
}

void spapr_rng_quota_use_word(SpaprRngQuota *quota)
{
    quota->word_due += word_ns(quota);
}

static bool check_word_interval(SpaprRngQuota *quota, uint32_t timeout,
                                Error **errp)
{
    ERRP_GUARD();
    int64_t word_ms = DIV_ROUND_UP(word_ns(quota), SCALE_MS);

    if (!timeout || word_ms <= timeout) {
        return true;
    }
    error_setg(errp, "max-bytes=%" PRIu64 " and period=%" PRIu32
               " give the guest a word each %" PRId64 " ms, but timeout=%"
               PRIu32 " lets calls wait less", quota->max_bytes, quota->period,
               word_ms, timeout);
    error_append_hint(errp, "Use max-bytes=%" PRIu64 " or more, or timeout=%"
                      PRId64 " or more, or timeout=0 to let calls wait for "
                      "ever.\n",
                      DIV_ROUND_UP((uint64_t)quota->period * WORD_SIZE,
                                   timeout), word_ms);
    return false;
}

bool spapr_rng_quota_check(SpaprRngQuota *quota, uint32_t timeout,
                           Error **errp)
{
    ERRP_GUARD();

    if (!quota->max_bytes || quota->max_bytes > INT64_MAX) {
        error_setg(errp, "max-bytes=%" PRIu64 " is out of range",
                   quota->max_bytes);
        error_append_hint(errp, "Use 1 to 2^63 - 1 bytes per period, or leave "
                          "max-bytes out for no limit.\n");
        return false;
    }
    if (!quota->period) {
        error_setg(errp, "period=0 is out of range");
        error_append_hint(errp, "Use 1 to 2^32 - 1 milliseconds, or leave "
                          "period out for 65536.\n");
        return false;
    }
    if (!spapr_rng_quota_is_set(quota)) {
        return true;
    }
    if (replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "max-bytes does not work with record and replay");
        error_append_hint(errp, "Leave max-bytes out of both runs.\n");
        return false;
    }
    return check_word_interval(quota, timeout, errp);
}
