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
#include "qemu/timer.h"
#include "hw/ppc/spapr_cpu_core.h"
#include "hw/ppc/spapr_hcall_wait.h"
#include "system/cpu-timers.h"
#include "system/hw_accel.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/tcg.h"
#include "trace.h"

/*
 * The longest sleep of a vCPU before it returns to its execution loop. Events
 * that need the vCPU earlier wake it. This is also the longest delay by a lost
 * wake-up: that of a vCPU which runs other code, such as an interrupt handler.
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
 * A wait without a try for so long was given up: the guest runs the task on
 * another vCPU, or another kernel. A vCPU that shares its thread with busy ones
 * may need seconds to come back; with KVM, none does, but QEMU sees no H_CEDE.
 */
#define GIVEN_UP_NS (10 * NANOSECONDS_PER_SECOND)
#define GIVEN_UP_KVM_NS NANOSECONDS_PER_SECOND

/* Interrupt vectors are here if LPCR[AIL] is 3 and the MMU is on. */
#define AIL_3 0xc000000000004000ULL

static SpaprHcallWait *wait_of(CPUState *cs)
{
    return &spapr_cpu_state(POWERPC_CPU(cs))->hcall_wait;
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
 * Whether @cs, which is not running now, has nothing to do but to try its
 * hypercall again.
 */
static bool only_waits(CPUState *cs)
{
    SpaprHcallWait *wait = wait_of(cs);

    return wait->queue && !wait->woken && wait->nip == cpu_env(cs)->nip;
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
        SpaprHcallWait *wait = wait_of(cs);

        if (halted ? cs->halted || !only_waits(cs) : !wait->halted) {
            continue;
        }
        cs->halted = wait->halted = halted;
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

static void wait_sleep(CPUState *cs, int ms)
{
    if (qatomic_read(&cs->exit_request) || thread_is_needed(cs) ||
        (tcg_enabled() && cpu_has_work(cs))) {
        return;
    }

    set_halted(true);
    qemu_cond_timedwait_bql(cs->halt_cond, ms);
    set_halted(false);
}

static void wait_begin(SpaprHcallQueue *queue, CPUState *cs)
{
    SpaprHcallWait *wait = wait_of(cs);

    spapr_hcall_wait_end(POWERPC_CPU(cs)); /* a wait in another queue */
    wait->cs = cs;
    wait->queue = queue;
    wait->since = wait->seen = cpu_get_clock();
    QTAILQ_INSERT_TAIL(&queue->vcpus, wait, next);
    queue->waits++;
}

void spapr_hcall_queue_init(SpaprHcallQueue *queue)
{
    QTAILQ_INIT(&queue->vcpus);
}

void spapr_hcall_queue_wake_one(SpaprHcallQueue *queue)
{
    SpaprHcallWait *wait;

    QTAILQ_FOREACH(wait, &queue->vcpus, next) {
        if (!wait->woken) {
            wait->woken = true;
            queue->held_until = get_clock() + SLICE_MS * SCALE_MS;
            qemu_cpu_kick(wait->cs);
            return;
        }
    }
}

void spapr_hcall_queue_drain(SpaprHcallQueue *queue)
{
    SpaprHcallWait *wait;

    while ((wait = QTAILQ_FIRST(&queue->vcpus))) {
        qemu_cpu_kick(wait->cs);
        spapr_hcall_wait_end(POWERPC_CPU(wait->cs));
    }
}

bool spapr_hcall_holds_back(SpaprHcallQueue *queue, PowerPCCPU *cpu)
{
    SpaprHcallWait *first = QTAILQ_FIRST(&queue->vcpus);
    SpaprHcallWait *wait = wait_of(CPU(cpu));

    /* The host's clock must not have an effect under record and replay. */
    if (wait->queue != queue || wait->woken || wait == first ||
        replay_mode != REPLAY_MODE_NONE) {
        return false;
    }
    if (!first->woken) {
        spapr_hcall_queue_wake_one(queue);
    }
    return get_clock() < queue->held_until;
}

int64_t spapr_hcall_waited_ns(SpaprHcallQueue *queue, PowerPCCPU *cpu)
{
    SpaprHcallWait *wait = wait_of(CPU(cpu));
    int64_t now = cpu_get_clock();

    if (wait->queue != queue) {
        return 0;
    }
    if (now - wait->seen > (kvm_enabled() ? GIVEN_UP_KVM_NS : GIVEN_UP_NS)) {
        trace_spapr_hcall_wait_give_up(CPU(cpu)->cpu_index);
        spapr_hcall_wait_end(cpu);
        return 0;
    }
    queue->wait_ns += now - wait->seen;
    wait->seen = now;
    return MAX(now - wait->since, 1);
}

target_ulong spapr_hcall_wait(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                              target_ulong opcode, int64_t max_ms)
{
    CPUState *cs = CPU(cpu);
    SpaprHcallWait *wait = wait_of(cs);
    target_ulong *address;

    if (wait->queue != queue) {
        wait_begin(queue, cs);
    }
    cpu_synchronize_state(cs);
    address = return_address(&cpu->env);
    *address -= 4;
    wait->nip = *address;
    wait->woken = false;
    if (address == &cpu->env.nip) { /* no interrupt handler has to run first */
        wait_sleep(cs, MIN(max_ms, slice_ms(cs)));
    }
    if (tcg_enabled()) {
        cpu_exit(cs); /* with thread=single, let the next vCPU run */
    }
    return opcode; /* r3 of the next try */
}

void spapr_hcall_wait_end(PowerPCCPU *cpu)
{
    SpaprHcallWait *wait = wait_of(CPU(cpu));
    SpaprHcallQueue *queue = wait->queue;

    if (queue) {
        trace_spapr_hcall_wait_end(CPU(cpu)->cpu_index);
        QTAILQ_REMOVE(&queue->vcpus, wait, next);
        wait->queue = NULL;
        spapr_hcall_queue_wake_one(queue);
    }
}
