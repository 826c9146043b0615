/*
 * A guest that makes hypercalls when the host tells it to
 *
 * A raw big-endian image, given as -bios: loaded at 0, entered at 0x100. The
 * host shares the guest's memory and writes the task of each vCPU there, in the
 * layout of hcalls.h. A reset loads the image again, but does not change the
 * rest of the memory: each vCPU that was in the middle of a batch begins it
 * again. The monitor's "nmi" sends a system reset interrupt, which also enters
 * at 0x100: the vCPU then begins its batch again, too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "hcalls.h"
#include "papr.h"

#define SPR_TB          268
#define MSR_FP          0x2000
#define RING_SHIFT      20
#define FETCH_AND_INCREMENT_BOUNDED 24

        .text
        /* At the machine's start, MSR[FP] is set; interrupts clear it. */
        .org    0x100
        mfmsr   r5
        andi.   r5, r5, MSR_FP
        beq     idle
        lis     r30, MACHINE_BLOCK@h
        ld      r20, CPUS - MACHINE_BLOCK(r30)
        addi    r4, r30, RTAS_ARGS - MACHINE_BLOCK
        li      r14, 1
1:      cmpld   r14, r20
        bge     2f
        li      r5, RTAS_START_CPU
        stw     r5, 0(r4)
        li      r5, 3
        stw     r5, 4(r4)
        li      r5, 1
        stw     r5, 8(r4)
        stw     r14, 12(r4)
        li      r5, work
        stw     r5, 16(r4)
        stw     r14, 20(r4)
        li      r3, 0
        ori     r3, r3, H_RTAS
        sc      1
        addi    r4, r30, RTAS_ARGS - MACHINE_BLOCK
        addi    r14, r14, 1
        b       1b
2:      li      r3, 0

        /* Every vCPU, with its number in r3 */
work:   lis     r31, MACHINE_BLOCK@h
        mulli   r4, r3, BLOCK_SIZE
        addi    r31, r31, BLOCKS - MACHINE_BLOCK
        add     r31, r31, r4
        addi    r16, r3, 1
        sldi    r16, r16, RING_SHIFT

        /* Sleep until the decrementer expires, then look for a new batch */
idle:   ld      r15, GO(r31)
        ld      r5, DONE(r31)
        cmpld   r15, r5
        bne     batch
        ld      r5, INTERVAL(r31)
        mtdec   r5
        li      r3, H_CEDE
        sc      1
        b       idle

batch:  lwsync
        ld      r5, INTERVAL(r31)
        mtdec   r5
        ld      r5, INTERRUPTS(r31)
        sldi    r5, r5, 15              /* MSR[EE] */
        ori     r5, r5, 2               /* MSR[RI] */
        mtmsrd  r5, 1
        ld      r17, OPCODE(r31)
        ld      r5, CALLS(r31)
        mtctr   r5
        ld      r5, RECORD(r31)
        cmpldi  r5, NOTE
        cmpldi  cr1, r5, TIME
        mfspr   r6, SPR_TB
        std     r6, START(r31)
        beq     record
        beq     cr1, time
        bgt     cr1, atomic
        bgt     check

        ld      r4, ARGUMENT(r31)
        ld      r5, ARGUMENT_R5(r31)
        ld      r6, ARGUMENT_R6(r31)
1:      mr      r3, r17
        sc      1
        bdnz    1b
        std     r3, OUTCOME(r31)
        b       over

record:
        .irp    n, 5, 6, 7, 8, 9, 10, 11, 12
        li      r\n, -100 - \n
        .endr
        mr      r3, r17
        bl      hcall
        ld      r20, COUNT(r31)
        clrlsldi r21, r20, 48, 4
        add     r21, r21, r16
        std     r3, 0(r21)
        std     r4, 8(r21)
        ld      r22, DAMAGE(r31)
        .irp    n, 5, 6, 7, 8, 9, 10, 11, 12
        addi    r23, r\n, 100 + \n
        or      r22, r22, r23
        .endr
        std     r22, DAMAGE(r31)
        addi    r20, r20, 1
        lwsync
        std     r20, COUNT(r31)
        bdnz    record
        b       over

        /* Update the block after each call: a reset may interrupt the batch */
check:  mr      r3, r17
        sc      1
        ld      r20, LAST(r31)
        ld      r21, SUM(r31)
        ld      r22, XOR(r31)
        ld      r23, FAULTS(r31)
        ld      r24, CHECKED(r31)
        cmpldi  r3, 0
        bne     1f
        cmpld   r4, r20
        bgt     2f
1:      addi    r23, r23, 1
2:      add     r21, r21, r4
        xor     r22, r22, r4
        addi    r24, r24, 1
        std     r4, LAST(r31)
        std     r21, SUM(r31)
        std     r22, XOR(r31)
        std     r23, FAULTS(r31)
        std     r24, CHECKED(r31)
        bdnz    check
        b       over

        /* Durations in ticks, which include one read of the time base */
time:   li      r20, 0
1:      mr      r3, r17
        mfspr   r21, SPR_TB
        sc      1
        mfspr   r22, SPR_TB
        sub     r22, r22, r21
        clrlsldi r23, r20, 47, 3
        stdx    r22, r23, r16
        addi    r20, r20, 1
        cmpldi  r3, 0
        beq     2f
        ld      r24, FAULTS(r31)
        addi    r24, r24, 1
        std     r24, FAULTS(r31)
2:      bdnz    1b
        b       over

        /*
         * The same of an atomic operation that TCG executes exclusively, after
         * 64 microseconds of other work each
         */
atomic: li      r20, 0
        addi    r24, r31, BOUNDED
1:      mfspr   r21, SPR_TB
2:      mfspr   r22, SPR_TB
        sub     r22, r22, r21
        cmpldi  r22, TB_HZ / 1000000 * 64
        blt     2b
        mfspr   r21, SPR_TB
        lwat    r3, r24, FETCH_AND_INCREMENT_BOUNDED
        mfspr   r22, SPR_TB
        sub     r22, r22, r21
        clrlsldi r23, r20, 47, 3
        stdx    r22, r23, r16
        addi    r20, r20, 1
        bdnz    1b

over:   mfspr   r6, SPR_TB
        std     r6, END(r31)
        lwsync
        std     r15, DONE(r31)
        b       idle

        /* Does not return: if the vCPU went on, it would run into hcall. */
stop:   sc      1
hcall:  sc      1
        blr

        /* Decrementer interrupt; r19 and r25 to r29 are for it alone */
        .org    0x900
        mfcr    r28
        mflr    r27
        ld      r29, TICKS(r31)
        addi    r29, r29, 1
        std     r29, TICKS(r31)
        ld      r29, LEAVE(r31)
        cmpldi  r29, 0
        bne     leave
        ld      r29, HOLD(r31)
        cmpldi  r29, 0
        bne     hold
held:   ld      r29, INNER(r31)
        cmpldi  r29, 0
        bne     inner
return: ld      r29, INTERVAL(r31)
        mtdec   r29
        mtlr    r27
        mtcr    r28
        rfid

leave:  li      r29, over
        mtsrr0  r29
        b       return

hold:   ld      r19, HELD(r31)
        addi    r19, r19, 1
        std     r19, HELD(r31)
        cmpldi  r29, STOP
        beq     halt
1:      ld      r29, HOLD(r31)
        cmpldi  r29, 0
        bne     1b
        b       held

halt:   li      r3, 0
        ori     r3, r3, H_RTAS
        li      r4, stop_self
        bl      stop
1:      ld      r29, RAN(r31)
        addi    r29, r29, 1
        std     r29, RAN(r31)
        b       1b

inner:  addi    r29, r29, -1
        std     r29, INNER(r31)
        mr      r25, r3
        mr      r26, r4
        ld      r3, INNER_OPCODE(r31)
        ld      r1, INNER_STACK(r31)
        cmpldi  r1, 0
        mfspr   r29, SPR_TB
        std     r29, INNER_START(r31)
        bne     1f
        sc      1
        b       2f
1:      bl      hcall
2:      std     r3, INNER_STATUS(r31)
        std     r4, INNER_VALUE(r31)
        ld      r29, INNER_COUNT(r31)
        addi    r29, r29, 1
        lwsync
        std     r29, INNER_COUNT(r31)
        li      r1, 0
        mr      r3, r25
        mr      r4, r26
        b       return

        /* Arguments of RTAS stop-self: no input and no output */
stop_self:
        .long   RTAS_STOP_SELF, 0, 0
