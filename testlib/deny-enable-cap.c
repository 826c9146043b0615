/*
 * Run a program that cannot use KVM_ENABLE_CAP on one file descriptor
 *
 * usage: deny-enable-cap FD PROGRAM ARGUMENT...
 *
 * With KVM's descriptor of the VM, this simulates a kernel that does not let
 * QEMU choose which hypercalls KVM answers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, \
                             offsetof(struct seccomp_data, field))
#define ALLOW_UNLESS(value, left) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, left)

int main(int argc, char **argv)
{
    /* On a little-endian host, the offsets are those of the lower halves. */
    struct sock_filter code[] = {
        LOAD(nr), ALLOW_UNLESS(SYS_ioctl, 5),
        LOAD(args[0]), ALLOW_UNLESS(atoi(argv[1]), 3),
        LOAD(args[1]), ALLOW_UNLESS(KVM_ENABLE_CAP, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

    if (argc > 2 && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
        !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        execv(argv[2], argv + 2);
    }
    perror("deny-enable-cap");
    return 127;
}
