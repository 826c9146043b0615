/*
 * sPAPR random number generator: the H_RANDOM hypercall
 *
 * H_RANDOM (LoPAPR 14.15.1) takes no arguments and returns 64 random bits in
 * r4. They come from an RngBackend by way of a small pool, or from KVM, which
 * then answers the call without leaving the kernel.
 *
 * Everything here runs under the BQL: the hypercall in the thread of the vCPU
 * that makes it, the rest in the main loop.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qapi/visitor.h"
#include "hw/ppc/spapr.h"
#include "hw/ppc/spapr_cpu_core.h"
#include "hw/ppc/spapr_rng.h"
#include "hw/qdev-properties.h"
#include "kvm_ppc.h"
#include "system/cpu-timers.h"
#include "system/hw_accel.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/reset.h"
#include "system/tcg.h"
#include "trace.h"

#define WORD_SIZE sizeof(uint64_t)

/*
 * The longest a vCPU sleeps before it returns to its execution loop. Whatever
 * needs it there earlier wakes it, except for interrupts that only KVM sees.
 * Under TCG, it may also miss the start of another vCPU's exclusive section.
 */
#define WAIT_SLICE_MS (kvm_enabled() ? 5 : 20)

/*
 * A call that waits is made again this soon, unless the guest has left it: it
 * may go on with something else when it takes an interrupt meanwhile.
 */
#define WAIT_AGAIN_NS (1000 * SCALE_MS)

/* How much of its quota a guest can save up; how often it is woken for it */
#define QUOTA_BURST_NS (50 * SCALE_MS)
#define QUOTA_WAKE_NS SCALE_MS

static uint32_t pool_level(SpaprRng *s)
{
    return s->pool_end - s->pool_pos;
}

/* Move what is left to the front of the pool and wipe the rest. */
static void pool_compact(SpaprRng *s)
{
    uint32_t level = pool_level(s);

    memmove(s->pool, s->pool + s->pool_pos, level);
    memset(s->pool + level, 0, s->pool_end - level);
    s->pool_pos = 0;
    s->pool_end = level;
}

static void pool_added(SpaprRng *s, uint32_t size)
{
    s->pool_end += size;
    s->fed_bytes += size;
    s->fed_at = cpu_get_clock();
    s->dry = false;
    s->read_size = MIN(s->read_size * 2, s->pool_size);
}

/* The first byte of the source is the most significant one of the word. */
static uint64_t pool_take(SpaprRng *s)
{
    uint8_t *p = s->pool + s->pool_pos;
    uint64_t word = ldq_be_p(p);

    stq_be_p(p, 0);
    s->pool_pos += WORD_SIZE;
    return word;
}

static void pool_drop(SpaprRng *s)
{
    s->fed_bytes -= pool_level(s);
    memset(s->pool, 0, sizeof(s->pool));
    s->pool_pos = 0;
    s->pool_end = 0;
    s->read_size = WORD_SIZE;
}

/* Whether a call of that vCPU waits, and will be made again. */
static bool is_waiting(SpaprCpuState *spapr_cpu)
{
    return spapr_cpu->random_wait_start &&
           cpu_get_clock() - spapr_cpu->random_wait_last < WAIT_AGAIN_NS;
}

/* How long a call has waited, or had when the guest left it, in ns */
static int64_t waited_ns(SpaprCpuState *spapr_cpu)
{
    if (!spapr_cpu->random_wait_start) {
        return 0;
    }
    return (is_waiting(spapr_cpu) ? cpu_get_clock() :
            spapr_cpu->random_wait_last) - spapr_cpu->random_wait_start;
}

static void wake_waiting(void)
{
    CPUState *cs;

    CPU_FOREACH(cs) {
        if (is_waiting(spapr_cpu_state(POWERPC_CPU(cs)))) {
            qemu_cpu_kick(cs);
        }
    }
}

/* Entropy that was asked for is here. */
static void spapr_rng_receive(void *opaque, const void *data, size_t size)
{
    SpaprRng *s = opaque;

    trace_spapr_rng_receive(size);
    s->requested = false;
    pool_compact(s);
    size = MIN(size, s->pool_size - s->pool_end);
    memcpy(s->pool + s->pool_end, data, size);
    pool_added(s, size);
    wake_waiting();
    object_unref(OBJECT(s));
}

/*
 * Under record and replay, the guest's time stands still while it waits, so
 * that a request could wait for ever. What the backend gives without one, and
 * that it has nothing to give, is in the log: let the repeated call ask again.
 */
static bool pool_needs_request(SpaprRng *s)
{
    return pool_level(s) < WORD_SIZE &&
           (replay_mode == REPLAY_MODE_NONE ||
            !RNG_BACKEND_GET_CLASS(s->rng)->try_read);
}

/*
 * Fill the pool without waiting, or see to it that it gets filled. Under record
 * and replay, nothing is read ahead: the pool is lost when a snapshot is loaded
 * in the middle of a replay, but in the log the bytes come once.
 */
static void pool_fill(SpaprRng *s)
{
    uint32_t room, size;

    if (s->requested) {
        return;
    }

    pool_compact(s);
    room = replay_mode == REPLAY_MODE_NONE ?
           MIN(s->read_size, s->pool_size - s->pool_end) :
           WORD_SIZE - s->pool_end;
    size = rng_backend_try_read(s->rng, s->pool + s->pool_end, room);
    trace_spapr_rng_read(size, room);
    if (size) {
        pool_added(s, size);
    }
    if (pool_needs_request(s)) {
        s->requested = true;
        object_ref(OBJECT(s)); /* till spapr_rng_receive() */
        size = s->read_size - s->pool_end;
        trace_spapr_rng_request(size);
        rng_backend_request_entropy(s->rng, size, spapr_rng_receive, s);
    }
}

static bool quota_is_set(SpaprRng *s)
{
    return s->max_bytes != SPAPR_RNG_NO_QUOTA;
}

/* How long a guest that is at its quota has to wait from word to word. */
static int64_t quota_word_ns(SpaprRng *s)
{
    return DIV_ROUND_UP((int64_t)s->period * SCALE_MS * WORD_SIZE,
                        s->max_bytes);
}

/*
 * Whether the guest may have a word now. Each is due quota_word_ns() after the
 * one before, whenever that was taken: so the rate holds although vCPUs wake
 * up late, and words that a guest does not take for QUOTA_BURST_NS are gone.
 */
static bool quota_allows(SpaprRng *s)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);

    /* "loadvm" can bring back a time that is long before. */
    s->word_due = MIN(s->word_due, now + quota_word_ns(s));
    s->word_due = MAX(s->word_due, now - QUOTA_BURST_NS);
    if (s->word_due <= now) {
        return true;
    }
    timer_mod_anticipate_ns(s->quota_timer,
                            MAX(s->word_due, now + QUOTA_WAKE_NS));
    return false;
}

static void quota_spend(SpaprRng *s)
{
    s->word_due += quota_word_ns(s);
    s->fed_at = cpu_get_clock();
    s->dry = false;
}

static void spapr_rng_quota_timer(void *opaque)
{
    wake_waiting();
}

/* Whether @cs, which is not running now, has nothing to do but call again. */
static bool only_waits(CPUState *cs)
{
    PowerPCCPU *cpu = POWERPC_CPU(cs);
    SpaprCpuState *spapr_cpu = spapr_cpu_state(cpu);

    /* However long ago that was: set_waiting_halted() asks twice. */
    return spapr_cpu->random_wait_start &&
           spapr_cpu->random_wait_nip == cpu->env.nip;
}

/* With thread=single, vCPUs take turns, and one that sleeps delays them all. */
static bool thread_is_needed(CPUState *self)
{
    CPUState *cs;

    CPU_FOREACH(cs) {
        if (cs == self || cs->thread != self->thread) {
            continue;
        }
        if (cpu_has_work(cs) || (!cs->halted && !only_waits(cs))) {
            return true;
        }
    }
    return false;
}

/*
 * With -icount, the guest's time passes without instructions only while all
 * vCPUs, which share one thread, are halted. The main loop sees to that.
 */
static void set_waiting_halted(bool halted)
{
    CPUState *cs;

    if (!icount_enabled() || replay_mode != REPLAY_MODE_NONE) {
        return;
    }

    CPU_FOREACH(cs) {
        if (only_waits(cs)) {
            cs->halted = halted;
            if (!halted) {
                /* One that came meanwhile may have to wait for MSR[EE]. */
                ppc_maybe_interrupt(cpu_env(cs));
            }
        }
    }
    qemu_notify_event();
}

static void h_random_sleep(CPUState *cs, int ms)
{
    if (qatomic_read(&cs->exit_request) || thread_is_needed(cs)) {
        return;
    }

    set_waiting_halted(true);
    qemu_cond_timedwait_bql(cs->halt_cond, ms);
    set_waiting_halted(false);
}

/* How long a call that began to wait at @start may go on, in milliseconds. */
static int64_t wait_left_ms(SpaprRng *s, int64_t start)
{
    if (!s->timeout || replay_mode != REPLAY_MODE_NONE) {
        return WAIT_SLICE_MS;
    }
    return s->timeout - (cpu_get_clock() - start) / SCALE_MS;
}

static void wait_begin(SpaprRng *s, PowerPCCPU *cpu, bool over_quota)
{
    SpaprCpuState *spapr_cpu = spapr_cpu_state(cpu);

    s->waits++;
    s->throttled += over_quota;
    spapr_cpu->random_wait_start = cpu_get_clock();
    spapr_cpu->random_wait_last = spapr_cpu->random_wait_start;
    trace_spapr_rng_wait_begin(CPU(cpu)->cpu_index,
                               over_quota ? "quota" : "backend");
}

static void wait_end(SpaprRng *s, PowerPCCPU *cpu)
{
    SpaprCpuState *spapr_cpu = spapr_cpu_state(cpu);
    int64_t waited = waited_ns(spapr_cpu);

    s->wait_ns += waited;
    spapr_cpu->random_wait_start = 0;
    trace_spapr_rng_wait_end(CPU(cpu)->cpu_index, waited);
}

static target_ulong h_random_fail(SpaprRng *s, PowerPCCPU *cpu)
{
    s->timeouts++;
    trace_spapr_rng_timeout(CPU(cpu)->cpu_index);
    return H_HARDWARE;
}

/*
 * Not now. Sleep a little, then have the vCPU make the call again: on
 * its way it passes through its execution loop, where it takes interrupts and
 * obeys whoever wants it stopped. A guest that is saved meanwhile is one that
 * is about to execute "sc", so nothing about a wait has to be migrated.
 */
static target_ulong h_random_wait(SpaprRng *s, PowerPCCPU *cpu,
                                  target_ulong opcode, bool over_quota)
{
    CPUState *cs = CPU(cpu);
    SpaprCpuState *spapr_cpu = spapr_cpu_state(cpu);
    int64_t left_ms;

    if (spapr_cpu->random_wait_start && !is_waiting(spapr_cpu)) {
        wait_end(s, cpu);
    }
    if (!spapr_cpu->random_wait_start) {
        if (s->dry) {
            return h_random_fail(s, cpu);
        }
        wait_begin(s, cpu, over_quota);
    }

    left_ms = wait_left_ms(s, spapr_cpu->random_wait_start);
    if (left_ms <= 0 || s->dry) {
        /* Others may just have been quicker to take what there was. */
        s->dry |= s->fed_at < spapr_cpu->random_wait_start;
        wait_end(s, cpu);
        return h_random_fail(s, cpu);
    }

    cpu_synchronize_state(cs);
    cpu->env.nip -= 4;
    spapr_cpu->random_wait_nip = cpu->env.nip;
    h_random_sleep(cs, MIN(left_ms, WAIT_SLICE_MS));
    spapr_cpu->random_wait_last = cpu_get_clock();
    if (tcg_enabled()) {
        cpu_exit(cs); /* with thread=single, it is the next vCPU's turn */
    }
    return opcode; /* r3, for the next time */
}

static target_ulong h_random(PowerPCCPU *cpu, SpaprMachineState *spapr,
                             target_ulong opcode, target_ulong *args)
{
    SpaprRng *s = spapr->rng;

    if (unlikely(quota_is_set(s)) && !quota_allows(s)) {
        return h_random_wait(s, cpu, opcode, true);
    }
    if (unlikely(pool_level(s) < WORD_SIZE)) {
        pool_fill(s);
        if (pool_level(s) < WORD_SIZE) {
            return h_random_wait(s, cpu, opcode, false);
        }
    }

    if (unlikely(quota_is_set(s))) {
        quota_spend(s);
    }
    if (unlikely(spapr_cpu_state(cpu)->random_wait_start)) {
        wait_end(s, cpu);
    }
    trace_spapr_rng_call(CPU(cpu)->cpu_index);
    args[0] = pool_take(s);
    return H_SUCCESS;
}

static void spapr_rng_reset_hold(Object *obj, ResetType type)
{
    SpaprRng *s = SPAPR_RNG(obj);
    CPUState *cs;

    pool_drop(s);
    s->fed_at = 0;
    s->dry = false;

    CPU_FOREACH(cs) {
        spapr_cpu_state(POWERPC_CPU(cs))->random_wait_start = 0;
    }
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
    return true;
}

static bool spapr_rng_check(SpaprRng *s, Error **errp)
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
    if (!spapr_rng_check_quota(s, errp)) {
        return false;
    }
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
    if (s->pool_size < WORD_SIZE || s->pool_size > SPAPR_RNG_POOL_MAX) {
        error_setg(errp, "pool-size=%" PRIu32 " is out of range",
                   s->pool_size);
        error_append_hint(errp, "Use 8 to %d bytes; 8 reads nothing ahead.\n",
                          SPAPR_RNG_POOL_MAX);
        return false;
    }
    return true;
}

/* Have KVM answer the guest. False where the backend has to, or on error. */
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

    if (!spapr_rng_check(s, errp)) {
        return;
    }

    s->in_kernel = s->use_kvm && spapr_rng_enable_kvm(s, errp);
    if (*errp) {
        return;
    }
    if (!s->in_kernel) {
        s->quota_timer = timer_new_ns(QEMU_CLOCK_VIRTUAL,
                                      spapr_rng_quota_timer, s);
        spapr_register_hypercall(H_RANDOM, h_random);
    }
    SPAPR_MACHINE(qdev_get_machine())->rng = s;
    qemu_register_resettable(OBJECT(dev));
}

static void spapr_rng_unrealize(DeviceState *dev)
{
    SpaprRng *s = SPAPR_RNG(dev);

    pool_drop(s);
    qemu_unregister_resettable(OBJECT(dev));
    SPAPR_MACHINE(qdev_get_machine())->rng = NULL;
    if (s->in_kernel) {
        kvmppc_set_in_kernel_random(false);
        s->in_kernel = false;
    } else {
        spapr_unregister_hypercall(H_RANDOM);
        g_clear_pointer(&s->quota_timer, timer_free);
    }
}

/* The accessor of the link, without the hint */
static ObjectPropertyAccessor *spapr_rng_set_link;

static void spapr_rng_set_rng(Object *obj, Visitor *v, const char *name,
                              void *opaque, Error **errp)
{
    ERRP_GUARD();

    spapr_rng_set_link(obj, v, name, opaque, errp);
    if (*errp) {
        error_append_hint(errp, "rng=ID takes the id of a random number "
                          "backend, such as -object rng-builtin,id=ID.\n");
    }
}

static bool spapr_rng_get_in_kernel(Object *obj, Error **errp)
{
    return SPAPR_RNG(obj)->in_kernel;
}

static uint64_t stat_bytes(SpaprRng *s)
{
    return s->fed_bytes - pool_level(s);
}

static uint64_t stat_calls(SpaprRng *s)
{
    return stat_bytes(s) / WORD_SIZE + s->timeouts;
}

/* With the time of those that still wait */
static uint64_t stat_wait_time(SpaprRng *s)
{
    uint64_t ns = s->wait_ns;
    CPUState *cs;

    CPU_FOREACH(cs) {
        ns += waited_ns(spapr_cpu_state(POWERPC_CPU(cs)));
    }
    return ns;
}

static uint64_t stat_waits(SpaprRng *s)
{
    return s->waits;
}

static uint64_t stat_timeouts(SpaprRng *s)
{
    return s->timeouts;
}

static uint64_t stat_throttled(SpaprRng *s)
{
    return s->throttled;
}

typedef struct SpaprRngStat {
    const char *name;
    const char *description;
    uint64_t (*get)(SpaprRng *s);
} SpaprRngStat;

static const SpaprRngStat spapr_rng_stats[] = {
    { "calls", "calls that were answered (read-only)", stat_calls },
    { "bytes", "random bytes that the guest got (read-only)", stat_bytes },
    { "waits", "calls that had to wait (read-only)", stat_waits },
    { "wait-time", "nanoseconds that calls waited (read-only)",
      stat_wait_time },
    { "timeouts", "calls that failed for lack of bytes (read-only)",
      stat_timeouts },
    { "throttled", "calls that had to wait because of max-bytes (read-only)",
      stat_throttled },
};

static void spapr_rng_get_stat(Object *obj, Visitor *v, const char *name,
                               void *opaque, Error **errp)
{
    const SpaprRngStat *stat = opaque;
    uint64_t value = stat->get(SPAPR_RNG(obj));

    visit_type_uint64(v, name, &value, errp);
}

static void spapr_rng_class_add_stats(ObjectClass *oc)
{
    for (int i = 0; i < ARRAY_SIZE(spapr_rng_stats); i++) {
        const SpaprRngStat *stat = &spapr_rng_stats[i];

        object_class_property_add(oc, stat->name, "uint64",
                                  spapr_rng_get_stat, NULL, NULL,
                                  (void *)stat);
        object_class_property_set_description(oc, stat->name,
                                              stat->description);
    }
}

static const Property spapr_rng_properties[] = {
    DEFINE_PROP_LINK("rng", SpaprRng, rng, TYPE_RNG_BACKEND, RngBackend *),
    DEFINE_PROP_BOOL("use-kvm", SpaprRng, use_kvm, false),
    DEFINE_PROP_UINT32("timeout", SpaprRng, timeout, 1000),
    DEFINE_PROP_UINT32("pool-size", SpaprRng, pool_size, SPAPR_RNG_POOL_MAX),
    DEFINE_PROP_UINT64("max-bytes", SpaprRng, max_bytes, SPAPR_RNG_NO_QUOTA),
    DEFINE_PROP_UINT32("period", SpaprRng, period, 1 << 16),
};

static void spapr_rng_class_init(ObjectClass *oc, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(oc);
    ResettableClass *rc = RESETTABLE_CLASS(oc);
    ObjectProperty *rng;

    dc->desc = "sPAPR random number generator (H_RANDOM)";
    dc->realize = spapr_rng_realize;
    dc->unrealize = spapr_rng_unrealize;
    dc->hotpluggable = false;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    rc->phases.hold = spapr_rng_reset_hold;

    device_class_set_props(dc, spapr_rng_properties);
    rng = object_class_property_find(oc, "rng");
    spapr_rng_set_link = rng->set;
    rng->set = spapr_rng_set_rng;

    object_class_property_add_bool(oc, "in-kernel", spapr_rng_get_in_kernel,
                                   NULL);

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
        "milliseconds that max-bytes are for");
    object_class_property_set_description(oc, "in-kernel",
        "whether it is KVM that serves the guest (read-only)");
    spapr_rng_class_add_stats(oc);
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
