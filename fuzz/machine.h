/*
 * A QEMU with the device and guests/bare-metal, for a fuzzer to drive
 *
 * A call that takes longer than HANG_MS, or finds that QEMU has ended,
 * reports that with failed() and does not return.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MACHINE_H
#define MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define HANG_MS 60000   /* no host is so busy that anything takes that long */
#define CPUS_MAX 3
#define MACHINES 7

#define H_SUCCESS 0
#define H_HARDWARE UINT64_MAX

/* What a machine is made of; the name is that of the corpus files. */
typedef struct MachineType {
    const char *name;
    const char *accel;
    const char *icount;     /* the value of -icount, or NULL */
    const char *device;     /* properties of the device, each with a comma */
    int cpus;
    bool egd;               /* an EGD daemon is the source, else a FIFO */
    bool times_out;
} MachineType;

extern const MachineType machine_types[MACHINES];

struct Source;

typedef struct Machine {
    const MachineType *type;
    struct Source *source;
    char *directory;        /* of its files */
    uint8_t *ram;
    pid_t pid;
    int qmp;
    char received[65536];   /* from QMP, and not looked at so far */
    int received_len;
    const char *asked;      /* the command that was sent last */
    bool reset_seen;
    bool uses_other;        /* the device draws from the other backend */
} Machine;

/* Says what is wrong, shows QEMU's messages, and ends the process. */
void failed(Machine *m, const char *what, ...)
    __attribute__((format(printf, 2, 3), noreturn));

int64_t now_ms(void);

/* When something that begins now will have taken so long that it hangs */
int64_t patience_begin(void);
bool patience_is_over(int64_t end);

/* Start one. Its files are below @directory, which must exist. */
Machine *machine_start(const MachineType *type, const char *directory);
void machine_end(Machine *m);

/* Have a command of QMP executed. True for success, false for an error. */
bool machine_command(Machine *m, const char *command, const char *arguments);

/* The value of an integer property of the device */
int64_t machine_property(Machine *m, const char *name);

/* Make a backend that is not there: the device's first, or the other one. */
void machine_add_backend(Machine *m, bool other);

/* Have the device draw from the other backend, or from its first one again. */
void machine_use(Machine *m, bool other);

/* Delete the backend that is not in use. The one that is must stay. */
void machine_delete_backend(Machine *m);

void machine_reset(Machine *m);

/* Save it to a file; it is stopped then. */
void machine_save(Machine *m);

/*
 * End it, and go on from what was saved in a new process. Only with one vCPU:
 * under TCG, QEMU 10.0 loses the second one of a guest that was migrated.
 */
void machine_move(Machine *m);

/* The guest: have a vCPU make calls, and see what it got. */
void guest_call(Machine *m, int cpu, uint64_t calls);
bool guest_is_done(Machine *m, int cpu);
uint64_t guest_results(Machine *m, int cpu);
void guest_result(Machine *m, int cpu, uint64_t i, uint64_t *status,
                  uint8_t value[8]);
bool guest_is_damaged(Machine *m, int cpu);

#endif
