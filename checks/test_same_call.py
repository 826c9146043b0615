# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a call is a repetition of the call that waits, or a new call.

In the comments, the "outer" call is one that waits while an interrupt handler
of its vCPU makes an "inner" call.
"""

import time

import pytest

from testlib.accels import every_accel, not_icount
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import (HELD, HOLD, H_HARDWARE, H_JOIN, H_RANDOM,
                            H_SUCCESS, H_UNASSIGNED, INNER, INNER_COUNT,
                            INNER_OPCODE, INNER_START, INNER_STATUS,
                            INNER_VALUE, LEAVE, RAN, SPIN, START, STOP, TICKS)
from testlib.limits import until
from testlib.machine import add_disk, hmp, statistic

CPU = 1     # the vCPU that calls. vCPU 0 can start it again.


@pytest.fixture
def begun(guest, fifo):
    """A function that starts a guest whose vCPU CPU waits in a call."""
    def function(way, timeout):
        vm = guest(fifo.backend, '-trace', 'spapr_rng_wait_end',
                   interrupts=True, timeout=timeout, **way)
        vm.begin([CPU])
        return vm
    return function


def interrupt(vm, opcode, calls=1):
    """Have the handler of the decrementer make calls, one per interrupt."""
    vm.set(CPU, INNER_OPCODE, opcode)
    vm.set(CPU, INNER, calls)


def some_ticks(vm):
    """Wait until the vCPU has taken interrupts, one each millisecond."""
    before = vm.get(CPU, TICKS)
    until(lambda: vm.get(CPU, TICKS) >= before + 20)


def hold(vm, how):
    """Have the handler of the next interrupt not return."""
    vm.set(CPU, HOLD, how)
    until(lambda: vm.get(CPU, HELD))
    time.sleep(0.05)


def counted(vm):
    return statistic(vm, 'waits'), statistic(vm, 'timeouts')


def inner_call(vm, opcode=H_RANDOM, status=H_HARDWARE):
    """H_RANDOM shares the deadline of the outer call."""
    interrupt(vm, opcode)
    until(lambda: vm.get(CPU, INNER_COUNT))
    assert vm.get(CPU, INNER_STATUS) == status


def other_hypercalls(vm):
    """If they ended the wait, a call would begin one each millisecond."""
    interrupt(vm, H_UNASSIGNED, 10 ** 9)
    until(lambda: vm.get(CPU, INNER_COUNT) >= 20)


def delay(vm):
    """If the host's clock decided, the call would get a new timeout."""
    hold(vm, SPIN)
    time.sleep(2)
    vm.set(CPU, HOLD, 0)


@pytest.mark.parametrize('meanwhile, timeouts', [
    (inner_call, 2), (other_hypercalls, 1), (delay, 1)])
@every_accel
def test_same_call(begun, way, meanwhile, timeouts):
    """A vCPU has one wait and one deadline, whatever its interrupts do."""
    vm = begun(way, timeout=1000)
    meanwhile(vm)
    vm.finish()
    assert [status for status, _ in vm.results(CPU)] == [H_HARDWARE]
    assert counted(vm) == (1, timeouts)
    assert vm.log().count('spapr_rng_wait_end') == 1


@every_accel
def test_inner_is_answered(begun, fifo, way):
    """The inner call and the outer call each get a word of their own."""
    vm = begun(way, timeout=0)
    interrupt(vm, H_RANDOM)
    until(lambda: vm.get(CPU, INNER_START))
    time.sleep(0.1)
    assert vm.get(CPU, INNER_COUNT) == 0
    fifo.write(source_bytes(0, 1))
    until(lambda: vm.get(CPU, INNER_COUNT))
    assert vm.get(CPU, INNER_STATUS) == H_SUCCESS
    assert vm.get(CPU, INNER_VALUE) == word(0)
    assert vm.calls_wait([CPU])
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert vm.values(CPU) == [word(1)]
    # The first answer ended the wait, and the outer call began another one.
    assert counted(vm) == (2, 0)


def give_up(vm):
    """A vCPU that has not tried again for 10 s has given up its wait."""
    hold(vm, SPIN)
    time.sleep(10.1)
    vm.set(CPU, HOLD, 0)


def leave_and_cede(vm):
    vm.set(CPU, LEAVE, 1)
    until(lambda: vm.done(CPU))
    vm.set(CPU, LEAVE, 0)
    some_ticks(vm)
    vm.begin([CPU])


def join(vm):
    """An interrupt ends H_JOIN. An H_CONFER of a vCPU to itself is alike."""
    inner_call(vm, H_JOIN, H_SUCCESS)


def stop_and_start(vm):
    hold(vm, STOP)
    vm.set(CPU, HOLD, 0)
    time.sleep(0.2)
    vm.set(CPU, START, 0)
    vm.start_cpu(CPU)
    until(lambda: vm.get(CPU, START))
    assert vm.get(CPU, RAN) == 0


def reset(vm):
    vm.reset()
    until(lambda: vm.get(CPU, START))


def load(vm):
    """It sets the clock back, by which the time of a call is measured."""
    hmp(vm.qemu, 'loadvm begun')


@pytest.mark.parametrize('abandon', [give_up, leave_and_cede, join,
                                     stop_and_start, reset, load])
@every_accel
def test_new_call(begun, fifo, tmp_path, way, abandon):
    """
    After a vCPU has abandoned a call, its next call is a new one.

    If the host's clock decided, a call that comes soon would have the deadline
    of the abandoned call. If QEMU computed the wait time from the calls that
    wait, it would decrease when a call is abandoned.
    """
    start = time.monotonic()
    vm = begun(way, timeout=0)
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm begun')
    until(lambda: statistic(vm, 'wait-time') >= 0.5e9)
    before = statistic(vm, 'wait-time')
    abandon(vm)
    assert statistic(vm, 'wait-time') >= before
    some_ticks(vm)
    assert not vm.done(CPU)
    fifo.write(source_bytes(0, 1))
    vm.finish()
    assert vm.values(CPU) == [word(0)]
    assert counted(vm) == (2, 0)
    # No time is counted twice.
    waited = statistic(vm, 'wait-time') / 1e9
    assert 0.5 <= waited <= time.monotonic() - start


@not_icount
def test_held_vcpu(begun, fifo, way):
    """
    A vCPU whose interrupt handler does not return delays no other vCPU.

    If other calls had to wait for the first call in the queue, they would wait
    for ever. When the vCPU is back, it is the first to be woken again.
    """
    vm = begun(way, timeout=0)
    vm.begin([0])
    hold(vm, SPIN)
    for i in range(5):
        fifo.write(source_bytes(i, i + 1))
        until(lambda: vm.done(0))
        assert vm.values(0) == [word(i)]
        vm.begin([0])
    vm.set(CPU, HOLD, 0)
    time.sleep(0.5)
    fifo.write(source_bytes(5, 6))
    until(lambda: vm.done(CPU))
    assert vm.values(CPU) == [word(5)]
    fifo.write(source_bytes(6, 7))
    vm.finish()
    assert vm.values(0) == [word(6)]
