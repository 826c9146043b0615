# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose calls wait for a source without data.

QEMU's own test of the device, spapr-rng/wait, has stop, cont and a reset.
"""

import os
import signal
import time

import pytest

from testlib.accels import ACCELS, accels, every_accel
from testlib.bare_metal import source_bytes
from testlib.hcalls import (COUNT, H_FUNCTION, H_HARDWARE, H_UNASSIGNED,
                            START, TICKS)
from testlib.limits import HANG, until
from testlib.machine import add_disk, hmp, set_property


@pytest.fixture
def start(guest, fifo):
    """A function that starts a guest on the FIFO."""
    def function(way, *args, timeout=0, **kwargs):
        return guest(fifo.backend, *args, **way, timeout=timeout, **kwargs)
    return function


def begin(vm):
    """Have each vCPU make a call, which must wait; forget earlier results."""
    for cpu in range(vm.cpus):
        vm.set(cpu, COUNT, 0)
    vm.begin()


def give(vm, fifo):
    """Write a word for each vCPU, which must complete the vCPU's one call."""
    assert vm.calls_wait() and vm.count() == 0
    fifo.write(source_bytes(0, vm.cpus))
    vm.gets_a_word_each()


@pytest.mark.parametrize('interrupts', [False, True],
                         ids=['masked', 'interrupts'])
@every_accel
def test_nmi(start, fifo, way, interrupts):
    """
    Each vCPU restarts in the middle of its call, and repeats the call.

    If a vCPU stayed halted, or if the abandoned call got a word, one call
    would never end. SIGTERM ends QEMU while calls wait.
    """
    vm = start(way, interrupts=interrupts)
    begin(vm)
    for _ in range(3):
        for cpu in range(vm.cpus):
            vm.set(cpu, START, 0)
        vm.qemu.cmd('inject-nmi')
        assert vm.calls_wait()
    give(vm, fifo)
    begin(vm)
    os.kill(vm.qemu.get_pid(), signal.SIGTERM)
    vm.qemu.wait(timeout=HANG)
    assert vm.qemu.exitcode() == 0


@every_accel
def test_saved(start, fifo, way, tmp_path):
    """After loadvm and in a new machine, the calls that were saved wait."""
    vm = start(way)
    add_disk(vm.qemu, tmp_path)
    begin(vm)
    hmp(vm.qemu, 'savevm saved')
    assert vm.calls_wait() and vm.count() == 0
    # The snapshot does not contain these words.
    fifo.write(source_bytes(100, 100 + vm.cpus))
    vm.finish()
    hmp(vm.qemu, 'loadvm saved')
    give(vm, fifo)

    begin(vm)
    path = tmp_path / 'state'
    vm.save(path)
    vm.quit()
    assert vm.count() == 0
    vm = start(way, '-incoming', 'defer', ram=vm.ram)
    vm.restore(path)
    give(vm, fifo)


@accels('multi', 'single')
def test_interrupts_are_prompt(start, way):
    """
    The sleep of one vCPU does not delay the interrupts of another one.

    If the vCPUs of a thread slept in turn, each would take 240 interrupts a
    second; if they kept the BQL in their sleep, 50.
    """
    vm = start(way, interrupts=True)
    begin(vm)

    def ticks_per_s():
        start = time.monotonic()
        before = [vm.get(cpu, TICKS) for cpu in range(vm.cpus)]
        time.sleep(0.1)
        ticks = min(vm.get(cpu, TICKS) - before[cpu] for cpu in range(vm.cpus))
        return ticks / (time.monotonic() - start)

    # There are up to 1000. A busy host may need more than one try.
    until(lambda: ticks_per_s() >= 400)


@pytest.mark.parametrize('name, share', [
    ('multi', 1 / 4),   # Two threads need a second core of the host, too.
    ('single', 3 / 4),
])
def test_others_go_on(start, fifo, name, share):
    """
    A vCPU that waits takes little time from another one.

    If it kept the BQL in its sleep, the other one would have a tenth left.
    """
    vm = start({**ACCELS[name], 'cpus': 2})

    def run():
        vm.call(500000, H_UNASSIGNED, [0], record=False)
        until(lambda: vm.done(0))
        return vm.seconds()

    def ratio():
        """Measure both soon after each other, as the host may become busy."""
        alone = min(run() for _ in range(4))
        vm.begin([1])
        beside = min(run() for _ in range(4))
        assert not vm.done(1)
        fifo.write(source_bytes(0, 1))
        vm.finish()
        return alone / beside

    until(lambda: ratio() >= share)


@every_accel
def test_timeout(start, way):
    """
    Calls of several vCPUs time out at the same time.

    If they waited one after the other, four vCPUs would take 2 s. With icount,
    the guest has no timer that would end the sleep of its vCPUs.
    """
    with_icount = 'icount' in way
    vm = start(way, timeout=500, interrupts=not with_icount)

    def seconds_to_fail():
        vm.reset()
        before = time.monotonic()
        vm.call()
        vm.finish()
        # With icount, the guest's time follows its instructions.
        seconds = time.monotonic() - before if with_icount else \
            vm.seconds(range(vm.cpus))
        assert seconds >= 0.4
        return seconds

    # A busy host may need more than one try. It slows down icount's clock.
    until(lambda: seconds_to_fail() <= 1 or with_icount)
    for cpu in range(vm.cpus):
        assert {status for status, _ in vm.results(cpu)} == {H_HARDWARE}


@every_accel
def test_unrealized(start, fifo, way):
    """Calls get H_FUNCTION while the device is not realized."""
    vm = start(way)
    begin(vm)
    set_property(vm, 'realized', False)
    vm.finish()
    for cpu in range(vm.cpus):
        assert [status for status, _ in vm.results(cpu)] == [H_FUNCTION]
    set_property(vm, 'realized', True)
    begin(vm)
    give(vm, fifo)
    vm.quit()
