/*
 * The layout of the guest's memory that hcalls.S and its host share
 *
 * The assembler, C and scripts read this file: each line gives a name to one
 * number.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HCALLS_H
#define HCALLS_H

#define RAM_SIZE        0x10000000

/* The machine's block */
#define MACHINE_BLOCK   0x10000
#define CPUS            0x10000 /* how many vCPUs there are */
#define RTAS_ARGS       0x10040 /* of start-cpu, at the machine's start */

/* Each vCPU's block, r31 */
#define BLOCKS          0x11000
#define BLOCK_SIZE      0x200
#define GO              0       /* which batch to make; set by the host */
#define DONE            8       /* which batch was made last */
#define CALLS           16      /* how many calls make a batch */
#define OPCODE          24
#define RECORD          32      /* what to do with each call; 0: only make it */
#define NOTE            1       /* record its r3 and r4 */
#define CHECK           2       /* check its r3 and r4 */
#define TIME            3       /* record its duration */
#define ATOMIC          4       /* instead, time an atomic operation */
#define INTERRUPTS      40      /* whether to take interrupts in a batch */
#define INTERVAL        48      /* of the decrementer, in ticks of time base */
#define START           56      /* the time base when the batch began */
#define END             64      /* the time base when the batch ended */
#define COUNT           72      /* calls recorded since the machine's start */
#define DAMAGE          80      /* changes of r5..r12 by calls: must stay 0 */
#define TICKS           88      /* decrementer interrupts taken */
/* Results of checked calls, whose values must be increasing numbers */
#define LAST            96      /* the last value */
#define SUM             104
#define XOR             112
#define FAULTS          120     /* calls that failed, and values out of order */
#define CHECKED         128     /* checked calls */
#define LEAVE           136     /* whether the next interrupt ends the batch */
#define ARGUMENT        144     /* r4 of calls that are not recorded */
#define ARGUMENT_R5     248     /* r5 of these calls */
#define ARGUMENT_R6     256
#define OUTCOME         264     /* r3 after the last of these calls */
#define BOUNDED         272     /* the operand of atomic operations */
/* What an interrupt handler does in the middle of a call */
#define INNER           152     /* how many calls are left, one per interrupt */
#define INNER_OPCODE    160
#define INNER_STACK     168     /* 0: from another "sc"; else from that of */
                                /* the recorded calls, with this r1 */
#define INNER_START     176     /* the time base before the last call */
#define INNER_COUNT     192     /* how many calls were answered */
#define INNER_STATUS    200     /* of the last call */
#define INNER_VALUE     208
#define HOLD            216     /* what an interrupt handler does first, or 0 */
#define SPIN            1       /* loop, interrupts masked, until HOLD is 0 */
#define STOP            2       /* stop this vCPU */
#define HELD            224     /* how often vCPUs were held or stopped */
#define RAN             240     /* what a stopped vCPU did: must stay 0 */

/*
 * r16: the last pairs of r3 and r4 of the vCPU, or the durations of the last
 * calls of a batch, at 1 MiB times (number of the vCPU + 1)
 */
#define RING_LENGTH     65536
#define DURATIONS       131072

#endif
