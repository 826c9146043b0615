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
 * The queue decides whom to wake: the vCPUs that have waited longest. A handler
 * that has more answers than vCPUs were woken for gives them to any that asks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_PPC_SPAPR_HCALL_WAIT_H
#define HW_PPC_SPAPR_HCALL_WAIT_H

#include "qemu/queue.h"
#include "target/ppc/cpu.h"

typedef struct SpaprHcallWait SpaprHcallWait;

/**
 * struct SpaprHcallQueue - vCPUs that wait for the same event
 * @vcpus: the waits of the vCPUs, the oldest first
 * @timer: ends waits while it is pending (QEMU_CLOCK_VIRTUAL), or NULL
 * @held_until: until when answers are kept for vCPUs that were woken, in ns of
 *              get_clock()
 * @woken: how many of @vcpus were woken to try again, and have not tried since
 * @waits: how many waits have begun so far
 * @wait_ns: how long vCPUs have waited, up to the last try of each, in ns
 *
 * The BQL protects all fields.
 */
typedef struct SpaprHcallQueue {
    QTAILQ_HEAD(, SpaprHcallWait) vcpus;
    QEMUTimer *timer;
    int64_t held_until;
    unsigned woken;
    uint64_t waits;
    uint64_t wait_ns;
} SpaprHcallQueue;

/**
 * struct SpaprHcallWait - the wait of a vCPU
 * @cs: the vCPU
 * @queue: where the vCPU waits; NULL: it does not wait
 * @nip: the address of the "sc" that the vCPU repeats (with TCG)
 * @since: when the wait began, in ns of cpu_get_clock()
 * @seen: when the vCPU tried last, in ns of cpu_get_clock()
 * @woken: the vCPU was woken to try again, and has not tried since
 * @slept: the thread of the vCPU has slept since the last try
 *
 * An interrupt handler may make the same hypercall while the one that it
 * interrupted waits. Both belong to one wait, which ends with the first answer.
 */
struct SpaprHcallWait {
    CPUState *cs;
    SpaprHcallQueue *queue;
    target_ulong nip;
    int64_t since;
    int64_t seen;
    bool woken;
    bool slept;
    QTAILQ_ENTRY(SpaprHcallWait) next;
};

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
 * spapr_hcall_queue_wake:
 * @queue: a queue whose vCPUs may get an answer now
 * @vcpus: how many of them to wake
 *
 * Wake the first vCPUs that were not woken since their last try. May be called
 * from any thread that holds the BQL.
 */
void spapr_hcall_queue_wake(SpaprHcallQueue *queue, unsigned vcpus);

/**
 * spapr_hcall_queue_drain:
 * @queue: a queue whose vCPUs should stop waiting
 *
 * Empty @queue and wake its vCPUs, which make their hypercalls again. May be
 * called from any thread that holds the BQL.
 */
void spapr_hcall_queue_drain(SpaprHcallQueue *queue);

/**
 * spapr_hcall_holds_back:
 * @queue: where vCPUs may wait
 * @cpu: the vCPU that makes the hypercall
 * @answers: how many vCPUs could get an answer now
 *
 * Answers are kept for the vCPUs that were woken, for 20 ms at most: another
 * vCPU may happen to try before them. May wake the first vCPU. With
 * thread=single, @cpu lets other vCPUs run after this hypercall.
 *
 * Returns: whether @cpu should leave the answer to a vCPU that was woken
 */
bool spapr_hcall_holds_back(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                            unsigned answers);

/**
 * spapr_hcall_waited_ns:
 * @queue: where the vCPU may wait
 * @cpu: the vCPU that makes the hypercall
 *
 * If the last try was 10 s ago (1 s with KVM), @cpu has given up its wait,
 * which ends here.
 *
 * Returns: how long @cpu has waited in @queue, in ns of cpu_get_clock(); 0 if
 * it does not wait there
 */
int64_t spapr_hcall_waited_ns(SpaprHcallQueue *queue, PowerPCCPU *cpu);

/**
 * spapr_hcall_wait:
 * @queue: where the vCPU is to wait
 * @cpu: the vCPU that makes the hypercall
 * @opcode: the hypercall's number
 * @max_ms: the longest sleep in ms, at least 1; the vCPU sleeps 20 ms at most,
 *          and less if it has work to do or KVM may have an interrupt for it
 *
 * Defer a hypercall: append @cpu to @queue if it does not wait yet, let it
 * sleep without the BQL, and then execute the hypercall again.
 *
 * Returns: what the handler of the hypercall has to return
 */
target_ulong spapr_hcall_wait(SpaprHcallQueue *queue, PowerPCCPU *cpu,
                              target_ulong opcode, int64_t max_ms);

/**
 * spapr_hcall_wait_end:
 * @cpu: a vCPU whose hypercall is answered, or which cedes, joins, stops
 *       itself, is started, reset or removed
 *
 * If @cpu waits, end its wait and wake the next vCPU. May be called from any
 * thread that holds the BQL while @cpu does not run.
 */
void spapr_hcall_wait_end(PowerPCCPU *cpu);

#endif /* HW_PPC_SPAPR_HCALL_WAIT_H */
