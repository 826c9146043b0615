/*
 * sPAPR random number generator: the H_RANDOM hypercall
 *
 * H_RANDOM (LoPAPR 14.15.1) takes no arguments and returns 64 random bits in
 * r4. The bits come from an RngBackend through a small pool, or from KVM, which
 * then answers the hypercall without leaving the kernel.
 *
 * All functions run under the BQL: the handler of the hypercall in the thread
 * of the calling vCPU, the other functions in the main loop.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "hw/ppc/spapr.h"
#include "hw/ppc/spapr_hcall_wait.h"
#include "hw/ppc/spapr_rng.h"
#include "hw/qdev-properties.h"
#include "kvm_ppc.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/reset.h"
#include "trace.h"

#define WORD_SIZE SPAPR_RNG_WORD_SIZE

/* The hypercall */

/* How many calls may be answered now */
static unsigned words_ready(SpaprRng *s)
{
    unsigned words = spapr_rng_pool_level(&s->pool) / WORD_SIZE;

    if (spapr_rng_quota_is_set(&s->quota)) {
        words = MIN(words, spapr_rng_quota_words_due(&s->quota));
    }
    return words;
}

/* There may be words now. Each vCPU that is answered wakes the next one. */
static void spapr_rng_wake(void *opaque)
{
    SpaprRng *s = opaque;

    spapr_hcall_queue_wake(&s->queue, MAX(words_ready(s), 1));
}

/* End the wait, if any, of a vCPU whose call is about to be answered. */
static void h_random_end_wait(SpaprRng *s, PowerPCCPU *cpu)
{
    int64_t waited = spapr_hcall_waited_ns(&s->queue, cpu);

    if (waited) {
        trace_spapr_rng_wait_end(CPU(cpu)->cpu_index, waited);
        spapr_hcall_wait_end(cpu);
    }
}

/* How many more milliseconds a call may wait after @ns */
static int64_t wait_left_ms(SpaprRng *s, int64_t ns)
{
    if (!s->timeout || replay_mode != REPLAY_MODE_NONE) {
        return INT64_MAX;
    }
    return s->timeout - ns / SCALE_MS;
}

static target_ulong h_random_fail(SpaprRng *s, PowerPCCPU *cpu)
{
    if (wait_left_ms(s, spapr_rng_pool_dry_ns(&s->pool)) <= 0) {
        rng_backend_fault(s->rng, RNG_STATE_SILENT, "no word in %" PRIu32
                          " ms; H_RANDOM fails until there is one",
                          s->timeout);
    }
    h_random_end_wait(s, cpu);
    s->calls++;
    s->timeouts++;
    trace_spapr_rng_timeout(CPU(cpu)->cpu_index);
    return H_HARDWARE;
}

/*
 * The call has to wait, for bytes or for the quota. It fails if it has waited
 * for the timeout, and also if the source has given nothing for that long: so
 * calls to a dead source fail at once.
 */
static target_ulong h_random_wait(SpaprRng *s, PowerPCCPU *cpu,
                                  target_ulong opcode, bool over_quota)
{
    int64_t waited = spapr_hcall_waited_ns(&s->queue, cpu);
    int64_t dry = spapr_rng_pool_dry_ns(&s->pool);
    int64_t left_ms = wait_left_ms(s, MAX(waited, dry));

    if (left_ms <= 0) {
        return h_random_fail(s, cpu);
    }
    if (!waited) {
        s->throttled += over_quota;
        trace_spapr_rng_wait_begin(CPU(cpu)->cpu_index,
                                   over_quota ? "quota" : "backend");
    }
    return spapr_hcall_wait(&s->queue, cpu, opcode, left_ms);
}

/* Whether the call leaves a word to a vCPU that has waited longer */
static bool h_random_holds_back(SpaprRng *s, PowerPCCPU *cpu)
{
    /* It must not time out in favour of another call. */
    return spapr_hcall_holds_back(&s->queue, cpu, words_ready(s)) &&
           wait_left_ms(s, spapr_hcall_waited_ns(&s->queue, cpu)) > 0;
}

static target_ulong h_random(PowerPCCPU *cpu, SpaprMachineState *spapr,
                             target_ulong opcode, target_ulong *args)
{
    SpaprRng *s = spapr->rng;
    bool any_wait = unlikely(!QTAILQ_EMPTY(&s->queue.vcpus));
    bool with_quota = spapr_rng_quota_is_set(&s->quota);
    /* Ask for bytes first: they should come while the quota is waited for. */
    bool has_word = spapr_rng_pool_has_word(&s->pool);
    bool over_quota = with_quota && !spapr_rng_quota_word_is_due(&s->quota);

    if (!has_word || over_quota ||
        (any_wait && h_random_holds_back(s, cpu))) {
        return h_random_wait(s, cpu, opcode, over_quota);
    }

    if (with_quota) {
        spapr_rng_quota_use_word(&s->quota);
    }
    if (any_wait) {
        h_random_end_wait(s, cpu);
    }
    s->calls++;
    s->bytes += WORD_SIZE;
    trace_spapr_rng_call(CPU(cpu)->cpu_index);
    args[0] = spapr_rng_pool_take(&s->pool);
    return H_SUCCESS;
}

/* Statistics: read-only properties */

typedef struct SpaprRngStat {
    const char *name;
    const char *description;
    size_t offset;
} SpaprRngStat;

static const SpaprRngStat spapr_rng_stats[] = {
    { "calls", "calls that were answered", offsetof(SpaprRng, calls) },
    { "bytes", "random bytes that the guest got", offsetof(SpaprRng, bytes) },
    { "waits", "calls that had to wait", offsetof(SpaprRng, queue.waits) },
    { "wait-time", "nanoseconds that calls waited",
      offsetof(SpaprRng, queue.wait_ns) },
    { "timeouts", "calls that returned H_HARDWARE",
      offsetof(SpaprRng, timeouts) },
    { "throttled", "calls that had to wait because of max-bytes",
      offsetof(SpaprRng, throttled) },
};

static void spapr_rng_get_stat(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    const SpaprRngStat *stat = opaque;

    visit_type_uint64(v, name, (void *)obj + stat->offset, errp);
}

static bool spapr_rng_get_in_kernel(Object *obj, Error **errp)
{
    return SPAPR_RNG(obj)->in_kernel;
}

static void spapr_rng_class_add_stats(ObjectClass *oc)
{
    for (int i = 0; i < ARRAY_SIZE(spapr_rng_stats); i++) {
        const SpaprRngStat *stat = &spapr_rng_stats[i];

        object_class_property_add(oc, stat->name, "uint64", spapr_rng_get_stat,
                                  NULL, NULL, (void *)stat);
        object_class_property_set_description(oc, stat->name,
                                              stat->description);
    }
    object_class_property_add_bool(oc, "in-kernel", spapr_rng_get_in_kernel,
                                   NULL);
    object_class_property_set_description(oc, "in-kernel",
                                          "whether KVM answers H_RANDOM");
}

/* Options */

static bool spapr_rng_check_source(SpaprRng *s, Error **errp)
{
    ERRP_GUARD();

    if (s->use_kvm && spapr_rng_quota_is_set(&s->quota)) {
        error_setg(errp, "max-bytes and use-kvm=true exclude each other: KVM "
                   "cannot limit the guest");
        error_append_hint(errp, "Leave one of them out; to limit the guest, "
                          "give a backend with rng=ID.\n");
        return false;
    }
    if (!s->use_kvm && !s->rng) {
        error_setg(errp, TYPE_SPAPR_RNG " has no source of random numbers");
        error_append_hint(errp, "Create a backend and name it: -object "
                          "rng-random,filename=/dev/urandom,id=rng0 "
                          "-device " TYPE_SPAPR_RNG ",rng=rng0\n"
                          "With -accel kvm, use-kvm=true has the kernel "
                          "serve the guest.\n");
        return false;
    }
    if (s->pool.size < WORD_SIZE || s->pool.size > SPAPR_RNG_POOL_MAX) {
        error_setg(errp, "pool-size=%" PRIu32 " is out of range",
                   s->pool.size);
        error_append_hint(errp, "Use 8 to %d bytes; 8 reads nothing ahead.\n",
                          SPAPR_RNG_POOL_MAX);
        return false;
    }
    return true;
}

static bool spapr_rng_check_machine(Error **errp)
{
    ERRP_GUARD();
    SpaprMachineState *spapr = (SpaprMachineState *)
        object_dynamic_cast(qdev_get_machine(), TYPE_SPAPR_MACHINE);

    if (!spapr) {
        error_setg(errp, TYPE_SPAPR_RNG " needs a pseries machine");
        error_append_hint(errp, "Use -machine pseries, or give this machine "
                          "a virtio-rng device.\n");
        return false;
    }
    if (spapr->rng) {
        error_setg(errp, "a machine can have only one " TYPE_SPAPR_RNG);
        error_append_hint(errp, "Remove all -device " TYPE_SPAPR_RNG
                          " options but one.\n");
        return false;
    }
    return true;
}

/* Let KVM answer H_RANDOM. Returns false if the backend must, or on error. */
static bool spapr_rng_enable_kvm(SpaprRng *s, Error **errp)
{
    ERRP_GUARD();
    const char *why = "the kernel does not let QEMU enable its H_RANDOM";
    int ret = kvm_enabled() ? kvmppc_set_in_kernel_random(true) : -ENODEV;

    if (ret == -ENODEV) {
        why = "use-kvm=true needs the KVM accelerator";
    } else if (ret == -ENOTSUP) {
        why = "the kernel has no random number generator for guests";
    }
    trace_spapr_rng_in_kernel(ret ? why : "enabled", ret);
    if (!ret) {
        return true;
    }
    if (s->rng) {
        warn_report(TYPE_SPAPR_RNG ": %s; the backend '%s' serves the guest",
                    why, object_get_canonical_path_component(OBJECT(s->rng)));
        return false;
    }
    error_setg(errp, "%s", why);
    error_append_hint(errp, "Give a backend with rng=ID, which then serves the "
                      "guest.\n");
    return false;
}

static void spapr_rng_realize(DeviceState *dev, Error **errp)
{
    ERRP_GUARD();
    SpaprRng *s = SPAPR_RNG(dev);

    if (!spapr_rng_check_machine(errp) ||
        !spapr_rng_check_source(s, errp) ||
        !spapr_rng_quota_check(&s->quota, s->timeout, errp)) {
        return;
    }
    s->in_kernel = s->use_kvm && spapr_rng_enable_kvm(s, errp);
    if (*errp) {
        return;
    }

    if (s->rng) {
        rng_backend_attach(s->rng);
    }
    spapr_hcall_queue_init(&s->queue);
    if (!s->in_kernel) {
        s->quota.timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, spapr_rng_wake, s);
        s->queue.timer = s->quota.timer;
        s->pool.backend = s->rng;
        s->pool.ready = spapr_rng_wake;
        s->pool.opaque = s;
        spapr_rng_pool_init(&s->pool);
        spapr_register_hypercall(H_RANDOM, h_random);
    }
    SPAPR_MACHINE(qdev_get_machine())->rng = s;
    spapr_ovec_set(SPAPR_MACHINE(qdev_get_machine())->ov5, OV5_PFO_HW_RNG);
    qemu_register_resettable(OBJECT(dev));
}

/* The "rng" property: a link that may be set while the guest runs */

static void spapr_rng_check_link(const Object *obj, const char *name,
                                 Object *source, Error **errp)
{
    ERRP_GUARD();
    SpaprRng *s = SPAPR_RNG(obj);

    if (!DEVICE(obj)->realized || source == OBJECT(s->rng)) {
        return;
    }
    if (s->in_kernel) {
        error_setg(errp, "KVM answers H_RANDOM, not a backend");
        error_append_hint(errp, "Use use-kvm=false to have a backend that can "
                          "be replaced.\n");
    } else if (replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "a replay does not know when 'rng' was replaced");
        error_append_hint(errp, "Replace it in a run that is not recorded.\n");
    } else if (!source) {
        error_setg(errp, TYPE_SPAPR_RNG " cannot do without a backend");
        error_append_hint(errp, "Set 'rng' to the id of another backend.\n");
    }
}

/* How QOM sets a link, which spapr_rng_set_link() wraps */
static ObjectPropertyAccessor *set_link;

/*
 * Whole words of the old source stay in the pool, and the guest gets them
 * first.
 */
static void spapr_rng_set_link(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    SpaprRng *s = SPAPR_RNG(obj);
    RngBackend *old = s->rng;

    object_ref(old); /* until the pool has cancelled its request */
    set_link(obj, v, name, opaque, errp);
    if (DEVICE(obj)->realized && s->rng != old) {
        trace_spapr_rng_replace(
            object_get_canonical_path_component(OBJECT(s->rng)));
        spapr_rng_pool_set_backend(&s->pool, s->rng);
        rng_backend_detach(old);
        rng_backend_attach(s->rng);
        spapr_hcall_queue_wake(&s->queue, 1);
    }
    object_unref(old);
}

static void spapr_rng_class_add_link(ObjectClass *oc)
{
    ObjectProperty *link =
        object_class_property_add_link(oc, "rng", TYPE_RNG_BACKEND,
                                       offsetof(SpaprRng, rng),
                                       spapr_rng_check_link,
                                       OBJ_PROP_LINK_STRONG);

    set_link = link->set;
    link->set = spapr_rng_set_link;
    object_class_property_set_description(oc, "rng",
        "the backend that random numbers come from");
}

static void spapr_rng_unrealize(DeviceState *dev)
{
    SpaprRng *s = SPAPR_RNG(dev);

    qemu_unregister_resettable(OBJECT(dev));
    SPAPR_MACHINE(qdev_get_machine())->rng = NULL;
    spapr_ovec_clear(SPAPR_MACHINE(qdev_get_machine())->ov5, OV5_PFO_HW_RNG);
    if (s->in_kernel) {
        kvmppc_set_in_kernel_random(false);
    } else {
        spapr_unregister_hypercall(H_RANDOM);
        spapr_rng_pool_destroy(&s->pool);
        spapr_hcall_queue_drain(&s->queue);
        s->queue.timer = NULL;
        g_clear_pointer(&s->quota.timer, timer_free);
    }
    if (s->rng) {
        rng_backend_detach(s->rng);
    }
}

static void spapr_rng_reset_hold(Object *obj, ResetType type)
{
    spapr_rng_pool_drop(&SPAPR_RNG(obj)->pool);
}

static const Property spapr_rng_properties[] = {
    DEFINE_PROP_BOOL("use-kvm", SpaprRng, use_kvm, false),
    DEFINE_PROP_UINT32("timeout", SpaprRng, timeout, 5000),
    DEFINE_PROP_UINT32("pool-size", SpaprRng, pool.size, SPAPR_RNG_POOL_MAX),
    DEFINE_PROP_UINT64("max-bytes", SpaprRng, quota.max_bytes,
                       SPAPR_RNG_NO_QUOTA),
    DEFINE_PROP_UINT32("period", SpaprRng, quota.period, 1 << 16),
    DEFINE_PROP_BOOL("health-test", SpaprRng, pool.health_test, true),
};

static void spapr_rng_class_init(ObjectClass *oc, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(oc);
    ResettableClass *rc = RESETTABLE_CLASS(oc);

    dc->desc = "sPAPR random number generator (H_RANDOM)";
    dc->realize = spapr_rng_realize;
    dc->unrealize = spapr_rng_unrealize;
    dc->hotpluggable = false;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    rc->phases.hold = spapr_rng_reset_hold;

    device_class_set_props(dc, spapr_rng_properties);
    spapr_rng_class_add_link(oc);
    spapr_rng_class_add_stats(oc);
    object_class_property_set_description(oc, "use-kvm",
        "have KVM serve the guest, the backend only where KVM cannot");
    object_class_property_set_description(oc, "timeout",
        "milliseconds a call may wait (0: for ever)");
    object_class_property_set_description(oc, "pool-size",
        "most bytes read ahead of the guest (8 to 16384; 8: none)");
    object_class_property_set_description(oc, "max-bytes",
        "how many bytes the guest gets in each period");
    object_class_property_set_description(oc, "period",
        "length of the period of max-bytes, in milliseconds");
    object_class_property_set_description(oc, "health-test",
        "throw away numbers that are obviously not random");
}

static const TypeInfo spapr_rng_info = {
    .name = TYPE_SPAPR_RNG,
    .parent = TYPE_DEVICE,
    .instance_size = sizeof(SpaprRng),
    .class_init = spapr_rng_class_init,
};

static void spapr_rng_register_types(void)
{
    type_register_static(&spapr_rng_info);
}

type_init(spapr_rng_register_types)
