/*
 * sPAPR random number generator: how much of its source a guest may use up
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_RNG_QUOTA_H
#define HW_PPC_SPAPR_RNG_QUOTA_H

#include "qemu/timer.h"

#define SPAPR_RNG_NO_QUOTA INT64_MAX

/**
 * struct SpaprRngQuota - a limit on the words that a guest gets
 * @max_bytes: the most bytes in each @period, spread evenly, word by word;
 *             SPAPR_RNG_NO_QUOTA: no limit
 * @period: the length of a period in ms, at least 1
 * @word_due: when the next word is allowed, in ns of QEMU_CLOCK_VIRTUAL
 * @timer: made by the user of the quota; fires when a word is allowed after one
 *         was refused
 *
 * The BQL protects all fields. The functions below need the BQL.
 */
typedef struct SpaprRngQuota {
    uint64_t max_bytes;
    uint32_t period;
    int64_t word_due;
    QEMUTimer *timer;
} SpaprRngQuota;

/**
 * spapr_rng_quota_check:
 * @quota: a quota, with @max_bytes and @period as the user has set them
 * @timeout: how long a call may wait, in ms; 0: for ever
 * @errp: why the quota cannot be used
 *
 * A quota that gives one vCPU a word less often than once in @timeout is
 * refused.
 *
 * Returns: whether the quota can be used
 */
bool spapr_rng_quota_check(SpaprRngQuota *quota, uint32_t timeout,
                           Error **errp);

/**
 * spapr_rng_quota_word_is_due:
 * @quota: a quota with a limit
 *
 * Returns: whether the guest may have a word now; if not, @timer is pending
 */
bool spapr_rng_quota_word_is_due(SpaprRngQuota *quota);

/**
 * spapr_rng_quota_words_due:
 * @quota: a quota with a limit
 *
 * Returns: how many words the guest may have now
 */
unsigned spapr_rng_quota_words_due(SpaprRngQuota *quota);

/**
 * spapr_rng_quota_use_word:
 * @quota: a quota with a limit
 *
 * Count a word that the guest gets.
 */
void spapr_rng_quota_use_word(SpaprRngQuota *quota);

/**
 * spapr_rng_quota_is_set:
 * @quota: the quota
 *
 * Returns: whether there is a limit
 */
static inline bool spapr_rng_quota_is_set(SpaprRngQuota *quota)
{
    return unlikely(quota->max_bytes != SPAPR_RNG_NO_QUOTA);
}

#endif /* HW_PPC_SPAPR_RNG_QUOTA_H */
