/*
 * sPAPR random number generator: the H_RANDOM hypercall
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_RNG_H
#define HW_PPC_SPAPR_RNG_H

#include "hw/ppc/spapr_hcall_wait.h"
#include "hw/ppc/spapr_rng_pool.h"
#include "hw/ppc/spapr_rng_quota.h"
#include "hw/qdev-core.h"
#include "qom/object.h"
#include "system/rng.h"

#define TYPE_SPAPR_RNG "spapr-rng"
OBJECT_DECLARE_SIMPLE_TYPE(SpaprRng, SPAPR_RNG)

/**
 * struct SpaprRng - the device behind H_RANDOM (LoPAPR 14.15.1)
 * @rng: the backend; NULL if only KVM answers H_RANDOM. The user may replace
 *       the backend while the guest runs.
 * @use_kvm: the user wants KVM to answer H_RANDOM
 * @in_kernel: KVM answers H_RANDOM
 * @timeout: how long a call may wait, in milliseconds; 0: for ever
 * @quota: a limit on the words that the guest gets
 * @pool: the read-ahead buffer
 * @queue: the vCPUs that wait for bytes or for the quota
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

    SpaprRngQuota quota;
    SpaprRngPool pool;
    SpaprHcallQueue queue;

    uint64_t calls;
    uint64_t bytes;
    uint64_t timeouts;
    uint64_t throttled;
};

#endif /* HW_PPC_SPAPR_RNG_H */
