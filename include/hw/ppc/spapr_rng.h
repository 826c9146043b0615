/*
 * sPAPR random number generator: the H_RANDOM hypercall
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_RNG_H
#define HW_PPC_SPAPR_RNG_H

#include "hw/ppc/spapr_hcall_wait.h"
#include "hw/ppc/spapr_rng_pool.h"
#include "hw/qdev-core.h"
#include "qom/object.h"
#include "system/rng.h"

#define TYPE_SPAPR_RNG "spapr-rng"
OBJECT_DECLARE_SIMPLE_TYPE(SpaprRng, SPAPR_RNG)

#define SPAPR_RNG_NO_QUOTA INT64_MAX

/**
 * struct SpaprRng - the device behind H_RANDOM (LoPAPR 14.15.1)
 * @rng: the backend; NULL if only KVM answers H_RANDOM. The user may replace
 *       the backend while the guest runs.
 * @use_kvm: the user wants KVM to answer H_RANDOM
 * @in_kernel: KVM answers H_RANDOM
 * @timeout: how long a call may wait for bytes, in milliseconds; 0: for ever
 * @max_bytes: the most bytes the guest gets in each @period, spread evenly;
 *             SPAPR_RNG_NO_QUOTA: no limit
 * @period: the time in which the guest gets @max_bytes, in milliseconds
 * @pool: bytes on their way to the guest
 * @queue: the vCPUs that wait for bytes or for the quota
 * @word_due: when the quota allows the next word, in ns of QEMU_CLOCK_VIRTUAL
 * @quota_timer: wakes the call that waits for @word_due
 * @calls: calls that were answered, with a number or with H_HARDWARE
 * @bytes: random bytes that the guest got
 * @timeouts: calls that ended in H_HARDWARE
 * @throttled: calls that began to wait because of the quota
 *
 * The BQL protects all fields.
 */
struct SpaprRng {
    DeviceState parent_obj;

    RngBackend *rng;
    bool use_kvm;
    bool in_kernel;
    uint32_t timeout;
    uint64_t max_bytes;
    uint32_t period;

    SpaprRngPool pool;
    SpaprHcallQueue queue;

    int64_t word_due;
    QEMUTimer *quota_timer;

    uint64_t calls;
    uint64_t bytes;
    uint64_t timeouts;
    uint64_t throttled;
};

#endif /* HW_PPC_SPAPR_RNG_H */
