# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of the device never decrease, whatever happens to its calls."""

import time

import pytest

from testlib.accels import accels
from testlib.bare_metal import source_bytes
from testlib.hcalls import LEAVE
from testlib.limits import until
from testlib.machine import add_disk, hmp, statistic

NAMES = ['calls', 'bytes', 'waits', 'wait-time', 'timeouts', 'throttled']


def events(vm, fifo):
    """Let happen, one by one, what ends the calls that wait, or moves them."""
    fifo.write(source_bytes(0, vm.cpus + 1))
    yield

    # Each vCPU abandons its call.
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 1)
    until(lambda: all(map(vm.done, range(vm.cpus))))
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 0)
    yield

    vm.reset()
    yield
    for command in 'savevm waiting', 'loadvm waiting', 'loadvm idle':
        hmp(vm.qemu, command)
        yield
    for command in 'stop', 'cont':
        vm.qemu.cmd(command)
        yield


def look(vm, seen):
    """Look at all statistics for a while; they were `seen` before."""
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        now = {name: statistic(vm, name) for name in NAMES}
        assert all(now[name] >= seen[name] for name in NAMES), (seen, now)
        seen.update(now)
        time.sleep(0.003)


@pytest.mark.parametrize('timeout', [0, 300])
@accels('multi', 'icount')
def test_never_less(guest, fifo, tmp_path, way, timeout):
    """
    No event makes a statistic decrease, and no time is counted twice.

    If QEMU computed the wait time from the calls that wait, it would decrease
    when a call is forgotten.
    """
    began = time.monotonic()
    vm = guest(fifo.backend, **way, interrupts=True, timeout=timeout)
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm idle')
    seen = dict.fromkeys(NAMES, 0)
    vm.call()
    look(vm, seen)
    for _ in events(vm, fifo):
        look(vm, seen)
        for cpu in filter(vm.done, range(vm.cpus)):
            vm.call(cpus=[cpu])
        look(vm, seen)
    assert 0 < seen['wait-time'] <= \
        (time.monotonic() - began) * 1e9 * vm.cpus
