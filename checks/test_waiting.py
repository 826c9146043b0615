# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose calls wait for a source without data.

QEMU's own test of the device, spapr-rng/wait, has stop, cont and a reset.
"""

import functools
import operator
import os
import signal
import time

import pytest

from testlib.accels import every_accel, not_icount
from testlib.bare_metal import source_bytes
from testlib.hcalls import H_FUNCTION, H_HARDWARE, START, TICKS
from testlib.limits import HANG, until
from testlib.machine import add_disk, hmp, set_property, statistic


@pytest.fixture
def start(guest, fifo):
    """A function that starts a guest on the FIFO."""
    return functools.partial(guest, fifo.backend, timeout=0)


def give(vm, fifo):
    """Write a word for each vCPU, which must complete the vCPU's one call."""
    assert vm.calls_wait() and vm.count() == 0
    fifo.write(source_bytes(0, vm.cpus))
    vm.gets_a_word_each()


def statistics(vm):
    return [statistic(vm, name) for name in (
        'calls', 'bytes', 'waits', 'wait-time', 'timeouts', 'throttled')]


@pytest.mark.parametrize('interrupts', [False, True])
@every_accel
def test_nmi(start, fifo, way, interrupts):
    """
    Each vCPU restarts in the middle of its call, and repeats the call.

    If a vCPU stayed halted, or if the abandoned call got a word, one call
    would never end. SIGTERM ends QEMU while calls wait.
    """
    vm = start(**way, interrupts=interrupts)
    vm.begin()
    for _ in range(3):
        for cpu in range(vm.cpus):
            vm.set(cpu, START, 0)
        vm.qemu.cmd('inject-nmi')
        assert vm.calls_wait()
    give(vm, fifo)
    vm.begin()
    os.kill(vm.qemu.get_pid(), signal.SIGTERM)
    vm.qemu.wait(timeout=HANG)
    assert vm.qemu.exitcode() == 0


@every_accel
def test_saved(start, fifo, way, tmp_path):
    """After loadvm and in a new machine, the calls that were saved wait."""
    vm = start(**way)
    add_disk(vm.qemu, tmp_path)
    vm.begin()
    hmp(vm.qemu, 'savevm saved')
    assert vm.calls_wait() and vm.count() == 0
    # The snapshot does not contain these words.
    fifo.write(source_bytes(100, 100 + vm.cpus))
    vm.finish()
    before = statistics(vm)
    hmp(vm.qemu, 'loadvm saved')
    # The snapshot does not contain the statistics either.
    assert all(map(operator.ge, statistics(vm), before))
    give(vm, fifo)

    vm.begin()
    path = tmp_path / 'state'
    vm.save(path)
    vm.quit()
    assert vm.count() == 0
    vm = start('-incoming', 'defer', **way, ram=vm.ram)
    vm.restore(path)
    give(vm, fifo)


@not_icount
def test_interrupts_are_prompt(start, way):
    """
    The sleep of one vCPU does not delay the interrupts of another one.

    If the vCPUs of a thread slept in turn, each would take 240 interrupts a
    second; if they kept the BQL in their sleep, 50.
    """
    vm = start(**way, interrupts=True)
    vm.begin()

    def ticks_per_s():
        start = time.monotonic()
        before = [vm.get(cpu, TICKS) for cpu in range(vm.cpus)]
        time.sleep(0.1)
        ticks = min(vm.get(cpu, TICKS) - before[cpu] for cpu in range(vm.cpus))
        return ticks / (time.monotonic() - start)

    # There are up to 1000. A busy host may need more than one try.
    until(lambda: ticks_per_s() >= 400)


@every_accel
def test_timeout(start, way):
    """
    Calls of several vCPUs time out at the same time, without an interrupt.

    If they waited one after the other, four vCPUs would take 2 s.
    """
    vm = start(**way, timeout=500)

    def seconds_to_fail():
        vm.reset()
        began = time.monotonic()
        vm.call()
        vm.finish()
        seconds = time.monotonic() - began
        assert seconds >= 0.5
        return seconds

    # A busy host may need more than one try.
    until(lambda: seconds_to_fail() <= 1)
    for cpu in range(vm.cpus):
        assert {status for status, _ in vm.results(cpu)} == {H_HARDWARE}


@every_accel
def test_unrealized(start, fifo, way):
    """Calls get H_FUNCTION while the device is not realized."""
    vm = start(**way)
    vm.begin()
    set_property(vm, 'realized', False)
    vm.finish()
    for cpu in range(vm.cpus):
        assert [status for status, _ in vm.results(cpu)] == [H_FUNCTION]
    set_property(vm, 'realized', True)
    vm.begin()
    give(vm, fifo)
    vm.quit()
