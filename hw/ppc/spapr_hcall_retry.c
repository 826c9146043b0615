/*
 * sPAPR hypercalls that cannot be answered yet
 *
 * A vCPU that waits sleeps here, in its thread, for a few milliseconds at a
 * time; it is not "halted" as one that cedes is. A halted vCPU takes interrupts
 * even if the guest has masked them in MSR[EE] (p9_next_unmasked_interrupt()
 * and its kin), and H_JOIN, ibm,suspend-me, start-cpu and CAS read "halted" to
 * learn which vCPUs the guest has given up.
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
 * The longest a vCPU sleeps before it returns to its execution loop. Whatever
 * needs the vCPU earlier wakes it, except for two: interrupts that only KVM
 * sees, and, under TCG, the start of another vCPU's exclusive section.
 */
#define SLICE_MS (kvm_enabled() ? 5 : 20)

/*
 * A vCPU that waits tries again after each slice. One that did not for so long
 * runs something else, maybe for ever: an interrupt handler, say.
 */
#define AWAY_NS (200 * SCALE_MS)

static SpaprHcallRetry *retry_state(CPUState *cs)
{
    return &spapr_cpu_state(POWERPC_CPU(cs))->retry;
}

/* The hypercall that was put off at this "sc", with the stack as it is now */
static SpaprHcallWaiter *waiter_at(CPUState *cs, target_ulong nip)
{
    SpaprHcallRetry *retry = retry_state(cs);

    for (int i = 0; i < ARRAY_SIZE(retry->waiters); i++) {
        SpaprHcallWaiter *w = &retry->waiters[i];

        if (w->queue && w->nip == nip && w->sp == cpu_env(cs)->gpr[1]) {
            return w;
        }
    }
    return NULL;
}

/* In a hypercall's handler, NIP is behind the "sc". */
static SpaprHcallWaiter *current_waiter(PowerPCCPU *cpu)
{
    cpu_synchronize_state(CPU(cpu));
    return waiter_at(CPU(cpu), cpu->env.nip - 4);
}

static void waiter_leave(SpaprHcallWaiter *w)
{
    SpaprHcallQueue *queue = w->queue;

    QTAILQ_REMOVE(&queue->waiters, w, next);
    w->queue = NULL;
    spapr_hcall_retry_wake(queue);
}

static void waiter_join(SpaprHcallQueue *queue, CPUState *cs)
{
    SpaprHcallRetry *retry = retry_state(cs);
    SpaprHcallWaiter *w = &retry->waiters[0];
    int64_t now = cpu_get_clock();

    /*
     * Nobody tells when a guest leaves a hypercall from an interrupt handler.
     * If hypercalls of that kind take all places, the oldest one goes.
     */
    for (int i = 1; i < ARRAY_SIZE(retry->waiters) && w->queue; i++) {
        if (!retry->waiters[i].queue || retry->waiters[i].seen < w->seen) {
            w = &retry->waiters[i];
        }
    }
    if (w->queue) {
        waiter_leave(w);
    }

    *w = (SpaprHcallWaiter) {
        .cs = cs, .queue = queue, .since = now, .seen = now,
        .nip = cpu_env(cs)->nip, .sp = cpu_env(cs)->gpr[1],
    };
    QTAILQ_INSERT_TAIL(&queue->waiters, w, next);
    queue->waits++;
}

static void waiter_seen(SpaprHcallWaiter *w)
{
    int64_t now = cpu_get_clock();

    w->queue->wait_ns += now - w->seen;
    w->seen = now;
}

/*
 * Whether @w, which was put off before @self, has lost its turn. With
 * thread=single it may take long until a vCPU can try again; but each tries
 * between two tries of another one. Under record and replay, only that counts.
 */
static bool pass_over(SpaprHcallWaiter *w, SpaprHcallWaiter *self)
{
    int64_t patience = replay_mode == REPLAY_MODE_NONE ? AWAY_NS : 0;

    if (self && !w->away && w->seen < self->seen &&
        w->seen + patience < cpu_get_clock()) {
        trace_spapr_hcall_retry_pass_over(w->cs->cpu_index);
        w->away = true;
    }
    return w->away;
}

/* Whether @cs, which is not running now, has nothing to do but try again. */
static bool only_waits(CPUState *cs)
{
    return waiter_at(cs, cpu_env(cs)->nip);
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
 * vCPUs, which share one thread, are halted; the main loop sees to that. None
 * of them runs until they are no longer, so the guest cannot tell.
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
            /* One that came meanwhile may have to wait for MSR[EE]. */
            ppc_maybe_interrupt(cpu_env(cs));
        }
    }
    qemu_notify_event();
}

static void retry_sleep(CPUState *cs, int ms)
{
    if (qatomic_read(&cs->exit_request) || thread_is_needed(cs)) {
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
    SpaprHcallWaiter *self = current_waiter(cpu), *w;

    if (self) {
        self->away = false;
    }
    QTAILQ_FOREACH(w, &queue->waiters, next) {
        if (w == self || !pass_over(w, self)) {
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

int64_t spapr_hcall_retry_age(PowerPCCPU *cpu)
{
    SpaprHcallWaiter *w = current_waiter(cpu);

    return w ? MAX(cpu_get_clock() - w->since, 1) : 0;
}

target_ulong spapr_hcall_retry(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                               target_ulong opcode, int64_t max_ms)
{
    CPUState *cs = CPU(cpu);
    bool is_new = !current_waiter(cpu);
    SpaprHcallWaiter *w;

    cpu->env.nip -= 4;
    if (is_new) {
        waiter_join(queue, cs);
    }
    retry_sleep(cs, MIN(max_ms, SLICE_MS));
    w = waiter_at(cs, cpu->env.nip);
    if (w) { /* not drained meanwhile */
        waiter_seen(w);
    }
    if (tcg_enabled()) {
        cpu_exit(cs); /* with thread=single, it is the next vCPU's turn */
    }
    return opcode; /* r3, for the next time */
}

/*
 * A vCPU takes some 20 microseconds to wake up. If vCPUs took turns call by
 * call, they would get far less than a fast source gives.
 */
void spapr_hcall_retry_end(PowerPCCPU *cpu, unsigned on_hand)
{
    SpaprHcallWaiter *self = current_waiter(cpu), *w;
    unsigned waiters = 0;

    if (!self) {
        return;
    }
    QTAILQ_FOREACH(w, &self->queue->waiters, next) {
        waiters++;
    }
    self->queue->turn_cpu = CPU(cpu)->cpu_index;
    self->queue->turn_left = MAX(on_hand / waiters, 1) - 1;
    waiter_seen(self);
    waiter_leave(self);
}

void spapr_hcall_retry_wake(SpaprHcallQueue *queue)
{
    SpaprHcallWaiter *w;

    QTAILQ_FOREACH(w, &queue->waiters, next) {
        if (!w->away) {
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
