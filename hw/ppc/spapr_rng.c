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
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "hw/ppc/spapr.h"
#include "hw/ppc/spapr_hcall_wait.h"
#include "hw/ppc/spapr_rng.h"
#include "hw/qdev-properties.h"
#include "kvm_ppc.h"
#include "system/cpu-timers.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/reset.h"
#include "trace.h"

#define WORD_SIZE SPAPR_RNG_WORD_SIZE

/* How much of its quota a guest can save up */
#define QUOTA_BURST_NS (50 * SCALE_MS)

/* How often a guest that waits for its quota is woken */
#define QUOTA_WAKE_NS SCALE_MS

/* Quota: max-bytes in each period, word by word */

static bool quota_is_set(SpaprRng *s)
{
    return s->max_bytes != SPAPR_RNG_NO_QUOTA;
}

/* The time between two words of a guest that uses up its quota */
static int64_t quota_word_ns(SpaprRng *s)
{
    return DIV_ROUND_UP((int64_t)s->period * SCALE_MS * WORD_SIZE,
                        s->max_bytes);
}

/*
 * Whether the quota allows a word now. A word is due quota_word_ns() after the
 * previous word was due, not after it was taken: so a vCPU that wakes up late
 * does not lower the rate. A guest loses words that it does not take for
 * QUOTA_BURST_NS.
 */
static bool quota_allows(SpaprRng *s)
{
    int64_t now;

    if (likely(!quota_is_set(s))) {
        return true;
    }

    /* "loadvm" can set the clock back. */
    now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    s->word_due = MIN(s->word_due, now + quota_word_ns(s));
    s->word_due = MAX(s->word_due, now - QUOTA_BURST_NS);
    if (s->word_due <= now) {
        return true;
    }
    timer_mod_anticipate_ns(s->quota_timer,
                            MAX(s->word_due, now + QUOTA_WAKE_NS));
    return false;
}

/* The hypercall */

/* Let a call that waits try again. */
static void spapr_rng_wake(void *opaque)
{
    SpaprRng *s = opaque;

    spapr_hcall_queue_wake_one(&s->queue);
}

/* End the wait, if any, of a vCPU whose call is about to be answered. */
static void wait_end(SpaprRng *s, PowerPCCPU *cpu)
{
    int64_t age = spapr_hcall_waited_ns(&s->queue, cpu);

    if (age) {
        trace_spapr_rng_wait_end(CPU(cpu)->cpu_index, age);
        spapr_hcall_wait_end(cpu);
    }
}

/* How many more milliseconds a call may wait that has waited for @ns */
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
        rng_backend_trouble(s->rng, RNG_SILENT, "no word in %" PRIu32
                            " ms; H_RANDOM fails until there is one",
                            s->timeout);
    }
    wait_end(s, cpu);
    s->calls++;
    s->timeouts++;
    trace_spapr_rng_timeout(CPU(cpu)->cpu_index);
    return H_HARDWARE;
}

/* The call waits for the quota or for bytes. */
static target_ulong h_random_wait(SpaprRng *s, PowerPCCPU *cpu,
                                  target_ulong opcode, bool over_quota)
{
    int64_t age = spapr_hcall_waited_ns(&s->queue, cpu);
    int64_t dry = spapr_rng_pool_dry_ns(&s->pool);
    int64_t left_ms = wait_left_ms(s, MAX(age, dry));

    if (left_ms <= 0) {
        return h_random_fail(s, cpu);
    }
    if (!age) {
        s->throttled += over_quota;
        trace_spapr_rng_wait_begin(CPU(cpu)->cpu_index,
                                   over_quota ? "quota" : "backend");
    }
    return spapr_hcall_wait(&s->queue, cpu, opcode, left_ms);
}

static target_ulong h_random(PowerPCCPU *cpu, SpaprMachineState *spapr,
                             target_ulong opcode, target_ulong *args)
{
    SpaprRng *s = spapr->rng;
    /* Bytes come while the call waits for the quota, not afterwards. */
    bool has_word = spapr_rng_pool_has_word(&s->pool);
    bool over_quota = !quota_allows(s);

    if (!has_word || over_quota ||
        unlikely(spapr_hcall_holds_back(&s->queue, cpu))) {
        return h_random_wait(s, cpu, opcode, over_quota);
    }

    if (unlikely(quota_is_set(s))) {
        s->word_due += quota_word_ns(s);
    }
    if (unlikely(!spapr_hcall_queue_is_empty(&s->queue))) {
        wait_end(s, cpu);
    }
    s->calls++;
    s->bytes += WORD_SIZE;
    trace_spapr_rng_call(CPU(cpu)->cpu_index);
    args[0] = spapr_rng_pool_take(&s->pool);
    return H_SUCCESS;
}

/* Statistics: read-only properties, which realize adds */

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
    { "timeouts", "calls that failed for lack of bytes",
      offsetof(SpaprRng, timeouts) },
    { "throttled", "calls that had to wait because of max-bytes",
      offsetof(SpaprRng, throttled) },
};

static bool spapr_rng_get_in_kernel(Object *obj, Error **errp)
{
    return SPAPR_RNG(obj)->in_kernel;
}

static void spapr_rng_add_stats(SpaprRng *s)
{
    Object *obj = OBJECT(s);

    if (object_property_find(obj, "in-kernel")) {
        return; /* realized again */
    }
    for (int i = 0; i < ARRAY_SIZE(spapr_rng_stats); i++) {
        const SpaprRngStat *stat = &spapr_rng_stats[i];

        object_property_add_uint64_ptr(obj, stat->name,
                                       (void *)s + stat->offset,
                                       OBJ_PROP_FLAG_READ);
        object_property_set_description(obj, stat->name, stat->description);
    }
    object_property_add_bool(obj, "in-kernel", spapr_rng_get_in_kernel, NULL);
    object_property_set_description(obj, "in-kernel",
                                    "whether KVM answers H_RANDOM");
}

/* Options */

/* A call that waits only for the quota must not time out. */
static bool spapr_rng_check_word_interval(SpaprRng *s, Error **errp)
{
    ERRP_GUARD();
    int64_t word_ms = DIV_ROUND_UP(quota_word_ns(s), SCALE_MS);

    if (!quota_is_set(s) || !s->timeout || word_ms <= s->timeout) {
        return true;
    }
    error_setg(errp, "max-bytes=%" PRIu64 " and period=%" PRIu32
               " give the guest a word each %" PRId64 " ms, but timeout=%"
               PRIu32 " lets calls wait less", s->max_bytes, s->period, word_ms,
               s->timeout);
    error_append_hint(errp, "Use max-bytes=%" PRIu64 " or more, or timeout=%"
                      PRId64 " or more, or timeout=0 to let calls wait for "
                      "ever.\n", DIV_ROUND_UP((uint64_t)s->period * WORD_SIZE,
                                              s->timeout), word_ms);
    return false;
}

static bool spapr_rng_check_quota(SpaprRng *s, Error **errp)
{
    ERRP_GUARD();

    if (!s->max_bytes || s->max_bytes > INT64_MAX) {
        error_setg(errp, "max-bytes=%" PRIu64 " is out of range",
                   s->max_bytes);
        error_append_hint(errp, "Use 1 to 2^63 - 1 bytes per period, or leave "
                          "max-bytes out for no limit.\n");
        return false;
    }
    if (!s->period) {
        error_setg(errp, "period=0 is out of range");
        error_append_hint(errp, "Use 1 to 2^32 - 1 milliseconds, or leave "
                          "period out for 65536.\n");
        return false;
    }
    if (quota_is_set(s) && s->use_kvm) {
        error_setg(errp, "max-bytes and use-kvm=true exclude each other: KVM "
                   "cannot limit the guest");
        error_append_hint(errp, "Leave one of them out; to limit the guest, "
                          "give a backend with rng=ID.\n");
        return false;
    }
    if (quota_is_set(s) && replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "max-bytes does not work with record and replay");
        error_append_hint(errp, "Leave max-bytes out of both runs.\n");
        return false;
    }
    return spapr_rng_check_word_interval(s, errp);
}

static bool spapr_rng_check_source(SpaprRng *s, Error **errp)
{
    ERRP_GUARD();

    if (s->use_kvm && !kvm_enabled()) {
        error_setg(errp, "use-kvm=true needs the KVM accelerator");
        error_append_hint(errp, "Use -accel kvm, or set use-kvm=false and "
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
    int ret = kvmppc_set_in_kernel_random(true);
    const char *why = ret == -ENOTSUP ?
                      "the kernel has no random number generator for guests" :
                      "the kernel does not let QEMU enable its H_RANDOM";

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
    error_append_hint(errp, "Give a backend for such hosts with rng=ID.\n");
    return false;
}

static void spapr_rng_realize(DeviceState *dev, Error **errp)
{
    ERRP_GUARD();
    SpaprRng *s = SPAPR_RNG(dev);

    if (!spapr_rng_check_machine(errp) || !spapr_rng_check_quota(s, errp) ||
        !spapr_rng_check_source(s, errp)) {
        return;
    }
    s->in_kernel = s->use_kvm && spapr_rng_enable_kvm(s, errp);
    if (*errp) {
        return;
    }

    spapr_hcall_queue_init(&s->queue);
    if (!s->in_kernel) {
        s->quota_timer = timer_new_ns(QEMU_CLOCK_VIRTUAL,
                                      spapr_rng_wake, s);
        s->pool.backend = s->rng;
        s->pool.ready = spapr_rng_wake;
        s->pool.opaque = s;
        spapr_rng_pool_init(&s->pool);
        spapr_register_hypercall(H_RANDOM, h_random);
    }
    spapr_rng_add_stats(s);
    SPAPR_MACHINE(qdev_get_machine())->rng = s;
    qemu_register_resettable(OBJECT(dev));
}

/*
 * Called when the user sets "rng" while the guest runs. Whole words of the old
 * source stay in the pool, and the guest gets them first. QOM sets the link
 * after this function has returned without an error.
 */
static void spapr_rng_replace_source(const Object *obj, const char *name,
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
    } else {
        trace_spapr_rng_replace(object_get_canonical_path_component(source));
        spapr_rng_pool_set_backend(&s->pool, RNG_BACKEND(source));
        spapr_hcall_queue_wake_one(&s->queue);
    }
}

static void spapr_rng_unrealize(DeviceState *dev)
{
    SpaprRng *s = SPAPR_RNG(dev);

    qemu_unregister_resettable(OBJECT(dev));
    SPAPR_MACHINE(qdev_get_machine())->rng = NULL;
    if (s->in_kernel) {
        kvmppc_set_in_kernel_random(false);
        return;
    }

    spapr_unregister_hypercall(H_RANDOM);
    spapr_rng_pool_destroy(&s->pool);
    g_clear_pointer(&s->quota_timer, timer_free);
    spapr_hcall_queue_drain(&s->queue);
}

static void spapr_rng_reset_hold(Object *obj, ResetType type)
{
    spapr_rng_pool_drop(&SPAPR_RNG(obj)->pool);
}

static const Property spapr_rng_properties[] = {
    DEFINE_PROP_BOOL("use-kvm", SpaprRng, use_kvm, false),
    DEFINE_PROP_UINT32("timeout", SpaprRng, timeout, 5000),
    DEFINE_PROP_UINT32("pool-size", SpaprRng, pool.size, SPAPR_RNG_POOL_MAX),
    DEFINE_PROP_UINT64("max-bytes", SpaprRng, max_bytes, SPAPR_RNG_NO_QUOTA),
    DEFINE_PROP_UINT32("period", SpaprRng, period, 1 << 16),
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
    object_class_property_add_link(oc, "rng", TYPE_RNG_BACKEND,
                                   offsetof(SpaprRng, rng),
                                   spapr_rng_replace_source,
                                   OBJ_PROP_LINK_STRONG);
    object_class_property_set_description(oc, "rng",
        "the backend that random numbers come from");
    object_class_property_set_description(oc, "use-kvm",
        "have KVM serve the guest, the backend only where KVM cannot");
    object_class_property_set_description(oc, "timeout",
        "milliseconds a call waits for the backend (0: for ever)");
    object_class_property_set_description(oc, "pool-size",
        "most bytes read ahead of the guest (8 to 4096; 8: none)");
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
