/*
 * sPAPR hypercalls that have to wait for their answer
 *
 * A vCPU that waits sleeps in its thread, for a few milliseconds at a time.
 * Unlike a vCPU that cedes, it is not "halted". A halted vCPU takes interrupts
 * even if the guest has masked them in MSR[EE]: see
 * p9_next_unmasked_interrupt(). And H_JOIN, ibm,suspend-me, start-cpu and CAS
 * treat a halted vCPU as unused.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "hw/ppc/spapr.h"
#include "hw/ppc/spapr_cpu_core.h"
#include "hw/ppc/spapr_hcall_wait.h"
#include "kvm_ppc.h"
#include "system/cpu-timers.h"
#include "system/cpus.h"
#include "system/kvm.h"
#include "system/replay.h"
#include "system/tcg.h"
#include "trace.h"

/*
 * The longest sleep of a vCPU before it returns to its execution loop. Events
 * that need the vCPU earlier wake it. A wake-up is lost if the vCPU is running
 * other code, such as an interrupt handler; this then limits the delay.
 */
#define SLICE_MS 20

/*
 * A vCPU that has not tried again for this long has given up its wait: the
 * guest has moved the task to another vCPU, or runs another kernel. With TCG, a
 * vCPU that shares its thread with busy ones may need seconds to try again.
 * With KVM, QEMU does not see H_CEDE, with which a vCPU often gives up.
 */
#define GIVEN_UP_NS (10 * NANOSECONDS_PER_SECOND)
#define GIVEN_UP_KVM_NS NANOSECONDS_PER_SECOND

static SpaprHcallWait *wait_of(CPUState *cs)
{
    return &spapr_cpu_state(POWERPC_CPU(cs))->hcall_wait;
}

/*
 * Whether @cs, which is not running now, has nothing to do until it tries its
 * hypercall again.
 */
static bool only_sleeps(CPUState *cs)
{
    SpaprHcallWait *wait = wait_of(cs);

    return wait->queue && !wait->woken && !wait->slept &&
           (kvm_enabled() || wait->nip == cpu_env(cs)->nip);
}

/*
 * Whether the thread of @self has something to do other than sleep. With
 * thread=single, a vCPU that sleeps delays all others.
 */
static bool thread_is_needed(CPUState *self)
{
    CPUState *cs;

    CPU_FOREACH(cs) {
        if (cs->thread == self->thread &&
            (cs->stop || !cpu_work_list_empty(cs) ||
             (tcg_enabled() && cpu_has_work(cs)) ||
             (!cs->halted && !only_sleeps(cs)))) {
            return true;
        }
    }
    return cpu_is_stopped(self);
}

/*
 * With -icount, time passes for the guest only while vCPUs execute
 * instructions. Advance its clock as far as the host's, or at once to the next
 * timer if the guest's clock ends the wait and the user has asked for that.
 */
static void sleep_icount(CPUState *cs, int ms)
{
    QEMUTimer *timer = wait_of(cs)->queue->timer;
    int64_t start = cpu_get_clock();
    int64_t timer_ns = qemu_clock_deadline_ns_all(QEMU_CLOCK_VIRTUAL,
                                                  ~QEMU_TIMER_ATTR_EXTERNAL);

    if (timer && timer_pending(timer) && icount_skips_idle_time()) {
        icount_advance(timer_ns);
        return;
    }
    if (timer_ns >= 0) {
        ms = MIN(ms, DIV_ROUND_UP(timer_ns, SCALE_MS));
    }
    if (ms) {
        qemu_cond_timedwait_bql(cs->halt_cond, ms);
        icount_advance(cpu_get_clock() - start);
    }
}

/*
 * Sleep until the next try. With TCG, this is queued work of the vCPU, and so
 * runs outside its execution loop: an exclusive section of another vCPU, which
 * has to wake all vCPUs in their loops, does not wait for one that sleeps.
 */
static void wait_sleep(CPUState *self, run_on_cpu_data max_ms)
{
    CPUState *cs;

    if (!wait_of(self)->queue || thread_is_needed(self)) {
        return;
    }
    /* The host's clock must not have an effect under record and replay. */
    if (icount_enabled() && replay_mode == REPLAY_MODE_NONE) {
        sleep_icount(self, max_ms.host_int);
    } else {
        qemu_cond_timedwait_bql(self->halt_cond, max_ms.host_int);
    }
    CPU_FOREACH(cs) {
        if (cs->thread == self->thread) {
            wait_of(cs)->slept = true;
        }
    }
}

/* Returns how long the vCPU may sleep first, in ms, or -errno. */
static int repeat_hcall(PowerPCCPU *cpu)
{
    if (kvm_enabled()) {
        return kvmppc_repeat_hcall(cpu);
    }
    cpu->env.nip -= 4;
    wait_of(CPU(cpu))->nip = cpu->env.nip;
    return SLICE_MS;
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

void spapr_hcall_queue_wake(SpaprHcallQueue *queue, unsigned vcpus)
{
    SpaprHcallWait *wait;

    QTAILQ_FOREACH(wait, &queue->vcpus, next) {
        if (!vcpus) {
            return;
        }
        if (!wait->woken && !wait->cs->unplug) {
            wait->woken = true;
            queue->woken++;
            queue->held_until = get_clock() + SLICE_MS * SCALE_MS;
            qemu_cpu_kick(wait->cs);
            vcpus--;
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

bool spapr_hcall_holds_back(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                            unsigned answers)
{
    SpaprHcallWait *first = QTAILQ_FIRST(&queue->vcpus);
    SpaprHcallWait *wait = wait_of(CPU(cpu));

    /* The host's clock must not have an effect under record and replay. */
    if (!first || wait->woken || wait == first ||
        replay_mode != REPLAY_MODE_NONE) {
        return false;
    }
    if (!first->woken) {
        spapr_hcall_queue_wake(queue, 1);
    }
    if (first->cs->thread == CPU(cpu)->thread) {
        cpu_exit(CPU(cpu)); /* It could take all answers that there are. */
    }
    return answers <= queue->woken && get_clock() < queue->held_until;
}

int64_t spapr_hcall_waited_ns(SpaprHcallQueue *queue, PowerPCCPU *cpu)
{
    SpaprHcallWait *wait = wait_of(CPU(cpu));
    int64_t now;

    if (wait->queue != queue) {
        return 0;
    }
    now = cpu_get_clock();
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
    int slice = repeat_hcall(cpu);

    if (slice < 0) {
        return H_HARDWARE;
    }
    if (wait->queue != queue) {
        wait_begin(queue, cs);
    }
    queue->woken -= wait->woken;
    wait->woken = wait->slept = false;
    max_ms = MIN(max_ms, MIN(slice, SLICE_MS));
    if (tcg_enabled()) {
        async_run_on_cpu(cs, wait_sleep, RUN_ON_CPU_HOST_INT(max_ms));
    } else if (max_ms) {
        wait_sleep(cs, RUN_ON_CPU_HOST_INT(max_ms));
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
        queue->woken -= wait->woken;
        wait->woken = false;
        wait->queue = NULL;
        spapr_hcall_queue_wake(queue, 1);
    }
}
