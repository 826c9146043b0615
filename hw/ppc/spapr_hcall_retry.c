/*
 * sPAPR hypercalls that have to wait for their answer
 *
 * A vCPU that waits sleeps in its own thread, for a few milliseconds at a time.
 * Unlike a vCPU that cedes, it is not "halted". A halted vCPU takes interrupts
 * even if the guest has masked them in MSR[EE]: see
 * p9_next_unmasked_interrupt(). And H_JOIN, ibm,suspend-me, start-cpu and CAS
 * take a halted vCPU for one that the guest does not use.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "hw/ppc/spapr_cpu_core.h"
#include "hw/ppc/spapr_hcall_retry.h"
#include "system/cpu-timers.h"
#include "system/hw_accel.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/tcg.h"
#include "trace.h"

/*
 * The longest sleep of a vCPU before it returns to its execution loop. Events
 * that need the vCPU earlier wake it. This is also the longest delay by a lost
 * wake-up.
 */
#define SLICE_MS 20

/*
 * The same while KVM may have an interrupt for the vCPU: QEMU does not see
 * interrupts of the decrementer and of doorbells, nor external ones if KVM
 * emulates the interrupt controller, and KVM does not wake a vCPU that sleeps
 * in QEMU. Another vCPU may wait until such an interrupt is handled.
 */
#define SLICE_KVM_MS 1

/*
 * A vCPU that waits tries again after each slice. A vCPU whose last try is
 * longer ago than this runs other code, such as an interrupt handler, and may
 * never try again.
 */
#define AWAY_NS (100 * SCALE_MS)

/*
 * Waking a vCPU takes about 20 microseconds. If each turn were a single
 * hypercall, vCPUs would get far less than a fast source gives. If a share is
 * smaller than this, a turn is a single hypercall all the same, so that all
 * vCPUs get equally much.
 */
#define SHARE_MIN 8

/* Interrupt vectors are here if LPCR[AIL] is 3 and the MMU is on. */
#define AIL_3 0xc000000000004000ULL

static SpaprHcallRetry *retry_state(CPUState *cs)
{
    return &spapr_cpu_state(POWERPC_CPU(cs))->retry;
}

/*
 * The register that holds the address after the "sc" of the current hypercall.
 * This is NIP, unless KVM HV delivered an interrupt after the "sc", before its
 * exit to QEMU: kvmppc_vcpu_run_hv() in Linux calls
 * kvmppc_core_prepare_to_enter(), which delivers an external interrupt or one
 * of the decrementer. Then NIP is the vector of the interrupt, MSR[EE] is
 * clear, and the interrupt handler of the guest returns to SRR0. KVM sets r3 to
 * the result of the hypercall before the interrupt handler runs, which
 * preserves r3.
 */
static target_ulong *return_address(CPUPPCState *env)
{
    target_ulong vector = env->nip < AIL_3 ? env->nip : env->nip - AIL_3;

    if (kvm_enabled() && !FIELD_EX64(env->msr, MSR, EE) &&
        (vector == env->excp_vectors[POWERPC_EXCP_EXTERNAL] ||
         vector == env->excp_vectors[POWERPC_EXCP_DECR])) {
        return &env->spr[SPR_SRR0];
    }
    return &env->nip;
}

/*
 * The hypercall of the vCPU that was deferred at the "sc" at @nip with the
 * present stack pointer. If @queue is NULL, the hypercall may wait in any
 * queue.
 */
static SpaprHcallWaiter *waiter_at(SpaprHcallQueue *queue, CPUState *cs,
                                   target_ulong nip)
{
    SpaprHcallRetry *retry = retry_state(cs);

    for (int i = 0; i < ARRAY_SIZE(retry->waiters); i++) {
        SpaprHcallWaiter *w = &retry->waiters[i];

        if (w->queue && (!queue || w->queue == queue) && w->nip == nip &&
            w->sp == cpu_env(cs)->gpr[1]) {
            return w;
        }
    }
    return NULL;
}

/* The hypercall that QEMU handles now, if it was deferred before */
static SpaprHcallWaiter *current_waiter(SpaprHcallQueue *queue, PowerPCCPU *cpu)
{
    cpu_synchronize_state(CPU(cpu));
    return waiter_at(queue, CPU(cpu), *return_address(&cpu->env) - 4);
}

static void waiter_leave(SpaprHcallWaiter *w)
{
    SpaprHcallQueue *queue = w->queue;

    QTAILQ_REMOVE(&queue->waiters, w, next);
    w->queue = NULL;
    spapr_hcall_retry_wake(queue);
}

static void waiter_join(SpaprHcallQueue *queue, CPUState *cs, target_ulong nip)
{
    SpaprHcallRetry *retry = retry_state(cs);
    SpaprHcallWaiter *w = &retry->waiters[0];
    int64_t now = cpu_get_clock();

    /*
     * QEMU does not learn of an interrupt handler that never returns to the
     * hypercall that it interrupted. If such hypercalls occupy all entries,
     * drop the one with the oldest try.
     */
    for (int i = 1; i < ARRAY_SIZE(retry->waiters) && w->queue; i++) {
        if (!retry->waiters[i].queue || retry->waiters[i].seen < w->seen) {
            w = &retry->waiters[i];
        }
    }
    if (w->queue) {
        waiter_leave(w);
    }
    if (spapr_hcall_queue_is_empty(queue)) {
        queue->turn_left = 0;
    }

    *w = (SpaprHcallWaiter) {
        .cs = cs, .queue = queue, .since = now, .seen = now,
        .nip = nip, .sp = cpu_env(cs)->gpr[1],
    };
    QTAILQ_INSERT_TAIL(&queue->waiters, w, next);
    queue->waits++;
}

static void waiter_seen(SpaprHcallWaiter *w)
{
    int64_t now = cpu_get_clock();
    int64_t ns = now - w->seen;

    /* KVM answers H_CEDE: the vCPU may have been idle since its last try. */
    if (kvm_enabled() && ns > AWAY_NS) {
        w->since += ns;
    } else {
        w->queue->wait_ns += ns;
    }
    w->seen = now;
}

/*
 * Whether @self, which was deferred later, need not wait for @w, because the
 * vCPU of @w is away. With thread=single, busy vCPUs can delay a try for long.
 * But each vCPU runs between two tries of @self, so the last try of @w must
 * also be older than the one of @self.
 */
static bool pass_over(SpaprHcallWaiter *w, SpaprHcallWaiter *self)
{
    if (self && !w->away && w->seen < self->seen &&
        w->seen + AWAY_NS < cpu_get_clock()) {
        trace_spapr_hcall_retry_pass_over(w->cs->cpu_index);
        w->away = true;
    }
    return w->away;
}

/*
 * Whether @cs, which is not running now, has nothing to do but to try a
 * deferred hypercall again, and was not woken for that.
 */
static bool only_waits(CPUState *cs)
{
    SpaprHcallWaiter *w = waiter_at(NULL, cs, cpu_env(cs)->nip);

    return w && !w->woken;
}

/* With thread=single, vCPUs share a thread: one that sleeps delays all. */
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
 * With -icount, all vCPUs share one thread, and the main loop advances the
 * guest's time without instructions only while all vCPUs are halted. The guest
 * cannot see that a vCPU was halted: the flag is restored before any vCPU runs.
 */
static void set_halted(bool halted)
{
    CPUState *cs;

    if (!icount_enabled() || replay_mode != REPLAY_MODE_NONE) {
        return;
    }

    CPU_FOREACH(cs) {
        SpaprHcallRetry *retry = retry_state(cs);

        if (halted ? cs->halted || !only_waits(cs) : !retry->halted) {
            continue;
        }
        cs->halted = retry->halted = halted;
        if (!halted) {
            /* MSR[EE] may mask an interrupt that came during the halt. */
            ppc_maybe_interrupt(cpu_env(cs));
        }
    }
    qemu_notify_event();
}

static int slice_ms(CPUState *cs)
{
    return kvm_enabled() && FIELD_EX64(cpu_env(cs)->msr, MSR, EE) ?
           SLICE_KVM_MS : SLICE_MS;
}

static void retry_sleep(CPUState *cs, int ms)
{
    if (qatomic_read(&cs->exit_request) || thread_is_needed(cs) ||
        (tcg_enabled() && cpu_has_work(cs))) {
        return;
    }

    set_halted(true);
    qemu_cond_timedwait_bql(cs->halt_cond, ms);
    set_halted(false);
}

void spapr_hcall_queue_init(SpaprHcallQueue *queue)
{
    QTAILQ_INIT(&queue->waiters);
}

void spapr_hcall_queue_drain(SpaprHcallQueue *queue)
{
    SpaprHcallWaiter *w;

    while ((w = QTAILQ_FIRST(&queue->waiters))) {
        qemu_cpu_kick(w->cs);
        waiter_leave(w);
    }
}

bool spapr_hcall_retry_turn(SpaprHcallQueue *queue, PowerPCCPU *cpu)
{
    SpaprHcallWaiter *self = current_waiter(queue, cpu), *w;

    if (self) {
        self->woken = false;
    }
    /* The host's clock must not have an effect under record and replay. */
    if (replay_mode != REPLAY_MODE_NONE) {
        return true;
    }

    if (self) {
        self->away = false;
    }
    QTAILQ_FOREACH(w, &queue->waiters, next) {
        /* A hypercall that this vCPU interrupted waits for the new one. */
        if (w == self || (w->cs != CPU(cpu) && !pass_over(w, self))) {
            break;
        }
    }
    if (w == self) {
        return true;
    }
    if (queue->turn_cpu != CPU(cpu)->cpu_index || !queue->turn_left) {
        return false;
    }
    queue->turn_left--;
    return true;
}

int64_t spapr_hcall_retry_age(SpaprHcallQueue *queue, PowerPCCPU *cpu)
{
    SpaprHcallWaiter *w = current_waiter(queue, cpu);

    if (!w) {
        return 0;
    }
    waiter_seen(w);
    return MAX(w->seen - w->since, 1);
}

target_ulong spapr_hcall_retry(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                               target_ulong opcode, int64_t max_ms)
{
    CPUState *cs = CPU(cpu);
    bool is_new = !current_waiter(queue, cpu);
    target_ulong *address = return_address(&cpu->env);
    SpaprHcallWaiter *w;

    *address -= 4;
    if (is_new) {
        waiter_join(queue, cs, *address);
    }
    if (address == &cpu->env.nip) { /* no interrupt handler has to run first */
        retry_sleep(cs, MIN(max_ms, slice_ms(cs)));
    }
    w = waiter_at(queue, cs, *address);
    if (w) { /* @queue was not drained during the sleep */
        waiter_seen(w);
    }
    if (tcg_enabled()) {
        cpu_exit(cs); /* with thread=single, let the next vCPU run */
    }
    return opcode; /* r3 of the next try */
}

int64_t spapr_hcall_retry_end(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                              unsigned on_hand)
{
    int64_t age = spapr_hcall_retry_age(queue, cpu);
    unsigned waiters = 0, share;
    SpaprHcallWaiter *w;

    if (!age) {
        return 0;
    }
    QTAILQ_FOREACH(w, &queue->waiters, next) {
        waiters++;
    }
    share = on_hand / waiters;
    queue->turn_cpu = CPU(cpu)->cpu_index;
    queue->turn_left = share < SHARE_MIN ? 0 : share - 1;
    waiter_leave(current_waiter(queue, cpu));
    return age;
}

void spapr_hcall_retry_wake(SpaprHcallQueue *queue)
{
    SpaprHcallWaiter *w;

    QTAILQ_FOREACH(w, &queue->waiters, next) {
        if (!w->away) {
            w->woken = true;
            qemu_cpu_kick(w->cs);
            return;
        }
    }
}

void spapr_hcall_retry_leave(PowerPCCPU *cpu)
{
    SpaprHcallRetry *retry = retry_state(CPU(cpu));

    for (int i = 0; i < ARRAY_SIZE(retry->waiters); i++) {
        if (retry->waiters[i].queue) {
            trace_spapr_hcall_retry_leave(CPU(cpu)->cpu_index);
            waiter_leave(&retry->waiters[i]);
        }
    }
}
