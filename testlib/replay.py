# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of a guest that are recorded and replayed."""

from testlib.limits import HANG


def start(guest, mode, log, backend):
    # The timeout has no effect, because the log does not have the host's clock.
    vm = guest(backend, '-S', '-icount', f'shift=auto,rr={mode},rrfile={log}',
               timeout=5, health_test='on')
    vm.call(2000)
    return vm


def run(guest, mode, log, backend):
    vm = start(guest, mode, log, backend)
    vm.qemu.cmd('cont')
    vm.finish()
    if mode == 'record':
        vm.quit()
    else:
        vm.qemu.wait(timeout=HANG)    # The log has the end of QEMU, too.
    return vm.values(), vm.seconds()
