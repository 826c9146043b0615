/*
 * A QEMU with the device and guests/bare-metal, driven by a fuzzer
 *
 * A function that takes longer than HANG_MS, or finds that QEMU has ended,
 * calls failed() and does not return.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MACHINE_H
#define MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "papr.h"

#define HANG_MS 60000   /* even a busy host does each step in less time */
#define CPUS_MAX 3
#define MACHINES 7

/* The options of a machine; corpus files name the machine. */
typedef struct MachineType {
    const char *name;
    const char *accel;
    const char *icount;     /* the value of -icount, or NULL */
    const char *device;     /* properties of the device, each with a comma */
    int cpus;
    bool egd;               /* the source is an EGD daemon, else a FIFO */
    bool times_out;
} MachineType;

extern const MachineType machine_types[MACHINES];

struct Source;

typedef struct Machine {
    const MachineType *type;
    struct Source *source;
    char *directory;        /* for the files of the machine */
    uint8_t *ram;
    pid_t pid;
    int qmp;
    char received[65536];   /* bytes of QMP that were not parsed yet */
    int received_len;
    const char *asked;      /* the command that was sent last */
    bool reset_seen;
    bool uses_other;        /* the device draws from the other backend */
} Machine;

/* Report what is wrong, show QEMU's messages, and end the process. */
void failed(Machine *m, const char *what, ...)
    __attribute__((format(printf, 2, 3), noreturn));

int64_t now_ms(void);

/* The time at which a step that begins now is taken to hang */
int64_t patience_begin(void);
bool patience_is_over(int64_t end);

/* Start a machine. Its files are below @directory, which must exist. */
Machine *machine_start(const MachineType *type, const char *directory);
void machine_end(Machine *m);

/* Execute a QMP command. Returns false if the answer is an error. */
bool machine_command(Machine *m, const char *command, const char *arguments);

/* The value of an integer property of the device */
int64_t machine_property(Machine *m, const char *name);

/* Create the first backend, or the other one, unless it exists. */
void machine_add_backend(Machine *m, bool other);

/* Set the backend of the device to the other one, or to the first one. */
void machine_use(Machine *m, bool other);

/* Try to delete both backends; the one in use must stay. */
void machine_delete_backend(Machine *m);

void machine_reset(Machine *m);

/* Save the machine to a file, which stops the machine. */
void machine_save(Machine *m);

/*
 * Save the machine, end its process, and load it in a new process. Only with
 * one vCPU: under TCG, QEMU 10.0 loses the second vCPU of a migrated guest.
 */
void machine_move(Machine *m);

/* The guest: let a vCPU make calls, and read the results. */
void guest_call(Machine *m, int cpu, uint64_t calls);
bool guest_is_done(Machine *m, int cpu);
uint64_t guest_results(Machine *m, int cpu);
void guest_result(Machine *m, int cpu, uint64_t i, uint64_t *status,
                  uint8_t value[8]);
bool guest_is_damaged(Machine *m, int cpu);

#endif
