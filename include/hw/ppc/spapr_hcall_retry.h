/*
 * sPAPR hypercalls that cannot be answered yet
 *
 * A hypercall whose answer is not there yet is put off: its vCPU sleeps for a
 * few milliseconds and then executes the "sc" instruction again, until the
 * handler of the hypercall has an answer. In between, the vCPU passes through
 * its execution loop, where it takes interrupts and obeys stop, quit, reset,
 * migration and other vCPUs' exclusive sections. A guest that is saved
 * meanwhile is about to execute "sc", so nothing has to be migrated.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_HCALL_RETRY_H
#define HW_PPC_SPAPR_HCALL_RETRY_H

#include "qemu/queue.h"
#include "target/ppc/cpu.h"

/* The most hypercalls of a vCPU that are put off at once; see waiter_join() */
#define SPAPR_HCALL_RETRY_MAX 4

typedef struct SpaprHcallWaiter SpaprHcallWaiter;

/**
 * struct SpaprHcallQueue - hypercalls that wait for the same thing
 * @waiters: the hypercalls, in the order in which they came
 * @turn_cpu: the index of the vCPU whose hypercall was answered last
 * @turn_left: how many hypercalls more @turn_cpu may make in its turn
 * @waits: how many hypercalls have been put off so far
 * @wait_ns: how long hypercalls have waited so far, in ns; one that still
 *           waits is included up to when it was last tried
 *
 * The user of this facility owns the queue. The BQL protects all fields.
 */
typedef struct SpaprHcallQueue {
    QTAILQ_HEAD(, SpaprHcallWaiter) waiters;
    int turn_cpu;
    unsigned turn_left;
    uint64_t waits;
    uint64_t wait_ns;
} SpaprHcallQueue;

/**
 * struct SpaprHcallWaiter - a hypercall that was put off
 * @cs: the vCPU that makes the hypercall
 * @queue: where the hypercall waits; NULL: this struct is not in use
 * @nip: the address of its "sc" instruction
 * @sp: the guest's r1, which tells a hypercall of an interrupt handler from one
 *      that the handler interrupted at the same address
 * @since: when the hypercall was put off first, in ns of cpu_get_clock()
 * @seen: when the hypercall was tried last, in ns of cpu_get_clock()
 * @away: the vCPU did not try again when it was its turn: see pass_over()
 * @woken: the vCPU was woken to try again, and has not done so yet
 */
struct SpaprHcallWaiter {
    CPUState *cs;
    SpaprHcallQueue *queue;
    target_ulong nip;
    target_ulong sp;
    int64_t since;
    int64_t seen;
    bool away;
    bool woken;
    QTAILQ_ENTRY(SpaprHcallWaiter) next;
};

/**
 * struct SpaprHcallRetry - what a vCPU has put off
 * @waiters: its hypercalls; more than one if interrupt handlers make some, too
 * @halted: the vCPU is halted because it waits: see set_halted()
 */
typedef struct SpaprHcallRetry {
    SpaprHcallWaiter waiters[SPAPR_HCALL_RETRY_MAX];
    bool halted;
} SpaprHcallRetry;

/* All functions need the BQL. Those that take a vCPU run in its own thread. */

/**
 * spapr_hcall_queue_init:
 * @queue: the queue to initialize
 */
void spapr_hcall_queue_init(SpaprHcallQueue *queue);

/**
 * spapr_hcall_queue_drain:
 * @queue: a queue whose hypercalls need not wait any more
 *
 * Empty @queue and wake its vCPUs, which make their hypercalls again. May be
 * called from any thread that holds the BQL.
 */
void spapr_hcall_queue_drain(SpaprHcallQueue *queue);

/**
 * spapr_hcall_queue_is_empty:
 * @queue: the queue to look at
 *
 * Returns: whether no hypercall waits in @queue
 */
static inline bool spapr_hcall_queue_is_empty(SpaprHcallQueue *queue)
{
    return QTAILQ_EMPTY(&queue->waiters);
}

/**
 * spapr_hcall_retry_turn:
 * @queue: what the hypercall has to wait for
 * @cpu: the vCPU that makes the hypercall
 *
 * Hypercalls are answered in the order in which they came. A handler has to put
 * off those whose turn has not come, whatever it could give them.
 *
 * Returns: whether the hypercall of @cpu may be answered now
 */
bool spapr_hcall_retry_turn(SpaprHcallQueue *queue, PowerPCCPU *cpu);

/**
 * spapr_hcall_retry_age:
 * @queue: what the hypercall has to wait for
 * @cpu: the vCPU that makes the hypercall
 *
 * Returns: for how many ns of cpu_get_clock() the hypercall that @cpu makes has
 * been put off; 0 if it comes for the first time. It is the same hypercall
 * again if it comes from the same "sc" with the same stack pointer (r1), unless
 * the vCPU has given itself up since: see spapr_hcall_retry_leave().
 */
int64_t spapr_hcall_retry_age(SpaprHcallQueue *queue, PowerPCCPU *cpu);

/**
 * spapr_hcall_retry:
 * @queue: what the hypercall has to wait for
 * @cpu: the vCPU that makes the hypercall
 * @opcode: the hypercall's number
 * @max_ms: how long the vCPU may sleep, in ms, at least 1; it sleeps less if
 *          something needs it, and 20 ms at most
 *
 * Put a hypercall off: join @queue, release the BQL and sleep, then have the
 * vCPU execute the hypercall again.
 *
 * Returns: what the hypercall's handler has to return
 */
target_ulong spapr_hcall_retry(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                               target_ulong opcode, int64_t max_ms);

/**
 * spapr_hcall_retry_end:
 * @queue: what the hypercall has to wait for
 * @cpu: the vCPU whose hypercall is about to be answered
 * @on_hand: how many hypercalls could be answered now
 *
 * If the hypercall of @cpu was put off, it leaves @queue, and the next one is
 * woken. Until the next one's vCPU runs, @cpu may make more hypercalls of this
 * kind: its share of @on_hand, unless that is small.
 *
 * Returns: what spapr_hcall_retry_age() does
 */
int64_t spapr_hcall_retry_end(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                              unsigned on_hand);

/**
 * spapr_hcall_retry_wake:
 * @queue: the queue that something has come for
 *
 * Wake the vCPU that is first in @queue, which makes its hypercall again. May
 * be called from any thread that holds the BQL.
 */
void spapr_hcall_retry_wake(SpaprHcallQueue *queue);

/**
 * spapr_hcall_retry_leave:
 * @cpu: a vCPU that cedes, joins, stops itself, is started, reset or removed
 *
 * Forget the hypercalls of @cpu that were put off: @cpu will not come back to
 * them. KVM answers H_CEDE and H_CONFER itself, so that QEMU does not learn of
 * these; there, the time between two tries that lie far apart does not count
 * for a hypercall's age. May be called from any thread that holds the BQL while
 * @cpu does not run.
 */
void spapr_hcall_retry_leave(PowerPCCPU *cpu);

#endif /* HW_PPC_SPAPR_HCALL_RETRY_H */
