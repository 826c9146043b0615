/*
 * sPAPR hypercalls that have to wait for their answer
 *
 * A handler that has no answer yet defers its hypercall: the vCPU sleeps for a
 * few milliseconds and then executes the "sc" instruction again, until the
 * handler has an answer. Between two tries, the vCPU passes through its
 * execution loop, where it takes interrupts and obeys stop, quit, reset,
 * migration and exclusive sections of other vCPUs. A deferred hypercall needs
 * no state in the migration stream: "sc" is the next instruction of a vCPU that
 * is saved.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_HCALL_RETRY_H
#define HW_PPC_SPAPR_HCALL_RETRY_H

#include "qemu/queue.h"
#include "target/ppc/cpu.h"

/* How many hypercalls of one vCPU can be deferred at once: see waiter_join() */
#define SPAPR_HCALL_RETRY_MAX 4

typedef struct SpaprHcallWaiter SpaprHcallWaiter;

/**
 * struct SpaprHcallQueue - deferred hypercalls that wait for the same event
 * @waiters: the hypercalls, in the order of their first tries
 * @turn_cpu: the index of the vCPU whose hypercall was answered last
 * @turn_left: how many more hypercalls of @turn_cpu may be answered in its turn
 * @waits: how many hypercalls have been deferred so far
 * @wait_ns: how long hypercalls have waited so far, in ns; a hypercall that
 *           still waits counts up to its last try
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
 * struct SpaprHcallWaiter - a deferred hypercall
 * @cs: the vCPU that makes the hypercall
 * @queue: where the hypercall waits; NULL: this struct is not in use
 * @nip: the address of its "sc" instruction
 * @sp: the guest's r1, which tells a hypercall of an interrupt handler from the
 *      hypercall that it interrupted at the same address
 * @since: when the hypercall was deferred first, in ns of cpu_get_clock()
 * @seen: when the hypercall was tried last, in ns of cpu_get_clock()
 * @away: the vCPU did not try again although its turn had come: see pass_over()
 * @woken: the vCPU was woken to try again, and has not tried since
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
 * struct SpaprHcallRetry - the deferred hypercalls of a vCPU
 * @waiters: the hypercalls; more than one if interrupt handlers make hypercalls
 * @halted: the vCPU is halted because it waits: see set_halted()
 */
typedef struct SpaprHcallRetry {
    SpaprHcallWaiter waiters[SPAPR_HCALL_RETRY_MAX];
    bool halted;
} SpaprHcallRetry;

/*
 * All functions need the BQL. A function that takes a vCPU runs in the thread
 * of that vCPU, unless stated otherwise.
 */

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
 * @queue: the queue of hypercalls that wait for the same event
 * @cpu: the vCPU that makes the hypercall
 *
 * Hypercalls are answered in the order of their first tries. A handler must
 * defer a hypercall whose turn has not come, even if it has an answer.
 *
 * Returns: whether the hypercall of @cpu may be answered now
 */
bool spapr_hcall_retry_turn(SpaprHcallQueue *queue, PowerPCCPU *cpu);

/**
 * spapr_hcall_retry_age:
 * @queue: the queue of hypercalls that wait for the same event
 * @cpu: the vCPU that makes the hypercall
 *
 * A hypercall is a further try of a deferred one if it comes from the same "sc"
 * with the same stack pointer (r1), unless spapr_hcall_retry_leave() was called
 * in between.
 *
 * Returns: for how many ns of cpu_get_clock() the hypercall of @cpu has been
 * deferred; 0 on its first try
 */
int64_t spapr_hcall_retry_age(SpaprHcallQueue *queue, PowerPCCPU *cpu);

/**
 * spapr_hcall_retry:
 * @queue: the queue of hypercalls that wait for the same event
 * @cpu: the vCPU that makes the hypercall
 * @opcode: the hypercall's number
 * @max_ms: the longest sleep in ms, at least 1; the vCPU sleeps 20 ms at most,
 *          1 ms if KVM may have an interrupt for it, and less if it has work
 *          to do
 *
 * Defer a hypercall: append it to @queue, release the BQL and sleep, then let
 * the vCPU execute the hypercall again.
 *
 * Returns: what the handler of the hypercall has to return
 */
target_ulong spapr_hcall_retry(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                               target_ulong opcode, int64_t max_ms);

/**
 * spapr_hcall_retry_end:
 * @queue: the queue of hypercalls that wait for the same event
 * @cpu: the vCPU whose hypercall is about to be answered
 * @on_hand: how many hypercalls can be answered now
 *
 * If the hypercall of @cpu was deferred, remove it from @queue and wake the
 * vCPU of the next one. Until that vCPU runs, further hypercalls of @cpu have
 * their turn, up to an equal share of @on_hand. A small share counts as 1.
 *
 * Returns: the age of the hypercall: see spapr_hcall_retry_age()
 */
int64_t spapr_hcall_retry_end(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                              unsigned on_hand);

/**
 * spapr_hcall_retry_wake:
 * @queue: a queue of which a hypercall may be answered now
 *
 * Wake the vCPU that is first in @queue, which makes its hypercall again. May
 * be called from any thread that holds the BQL.
 */
void spapr_hcall_retry_wake(SpaprHcallQueue *queue);

/**
 * spapr_hcall_retry_leave:
 * @cpu: a vCPU that cedes, joins, stops itself, is started, reset or removed
 *
 * Forget the deferred hypercalls of @cpu, which will not be tried again. KVM
 * answers H_CEDE and H_CONFER without an exit to QEMU. With KVM, a long time
 * between two tries therefore does not count for the age of a hypercall. May be
 * called from any thread that holds the BQL while @cpu does not run.
 */
void spapr_hcall_retry_leave(PowerPCCPU *cpu);

#endif /* HW_PPC_SPAPR_HCALL_RETRY_H */
