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

some_ways = accels('multi', 'icount')


class Watch:
    """Reads all statistics repeatedly, and checks that none decreases."""

    def __init__(self, vm):
        self._vm = vm
        self._seen = dict.fromkeys(NAMES, 0)

    def look(self):
        now = {name: statistic(self._vm, name) for name in NAMES}
        fell = {name: (self._seen[name], now[name]) for name in NAMES
                if now[name] < self._seen[name]}
        assert fell == {}
        self._seen = now

    def look_for(self, seconds):
        """Look every few milliseconds, for so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(0.003)

    def wait_for_call(self):
        """Have each idle vCPU make another call."""
        for cpu in range(self._vm.cpus):
            if self._vm.done(cpu):
                self._vm.call(cpus=[cpu])
        self.look_for(0.2)


def leave(vm, watch):
    """Each vCPU abandons its call, and makes no call for a while."""
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 1)
    until(lambda: all(map(vm.done, range(vm.cpus))))
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 0)
    watch.look_for(1.2)


def reset(vm, watch):
    vm.reset()
    watch.look_for(0.2)


def load(vm, watch):
    """loadvm brings back a guest that waits, and then one that is idle."""
    hmp(vm.qemu, 'savevm waiting')
    watch.look_for(0.1)
    hmp(vm.qemu, 'loadvm waiting')
    watch.look_for(0.3)
    hmp(vm.qemu, 'loadvm idle')
    watch.look_for(0.1)


def pause(vm, watch):
    vm.qemu.cmd('stop')
    watch.look_for(0.1)
    vm.qemu.cmd('cont')
    watch.look_for(0.2)


@pytest.mark.parametrize('timeout', [0, 300])
@pytest.mark.parametrize('event', [leave, reset, load, pause],
                         ids=lambda event: event.__name__)
@some_ways
def test_never_less(guest, fifo, tmp_path, way, event, timeout):
    """
    No event makes a statistic decrease.

    If QEMU computed the wait time from the calls that wait, it would decrease
    when a call is forgotten.
    """
    vm = guest(fifo.backend, **way, interrupts=True,
               timeout=timeout)
    if event is load:
        add_disk(vm.qemu, tmp_path)
        hmp(vm.qemu, 'savevm idle')
    fifo.write(source_bytes(0, vm.cpus + 1))
    watch = Watch(vm)
    vm.call(cpus=range(vm.cpus))
    vm.finish()
    watch.look()
    for _ in range(2):
        watch.wait_for_call()
        event(vm, watch)
    fifo.write(source_bytes(10, 10 + 2 * vm.cpus))
    watch.wait_for_call()
    vm.quit()


@some_ways
def test_wait_time_grows(guest, fifo, way):
    """The wait time grows while a call waits, not only when it ends."""
    before = time.monotonic()
    vm = guest(fifo.backend, **way, timeout=0)
    vm.call()
    assert vm.calls_wait()
    for milestone in (0.1, 0.2, 0.3):
        until(lambda: statistic(vm, 'wait-time') >=
              milestone * 1e9 * vm.cpus)
    waited = statistic(vm, 'wait-time')
    assert waited <= (time.monotonic() - before) * 1e9 * vm.cpus
    assert statistic(vm, 'waits') == vm.cpus
    fifo.write(source_bytes(0, vm.cpus))
    vm.finish()
    ended = statistic(vm, 'wait-time')
    assert ended >= waited
    time.sleep(0.1)
    assert statistic(vm, 'wait-time') == ended
    vm.quit()
