# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a call is a repetition of the call that waits, or a new call.

In the comments, the "outer" call is one that waits while an interrupt handler
of its vCPU makes an "inner" call.
"""

import time

import pytest

from testlib.accels import ACCELS, accels, every_accel
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import (HELD, HOLD, H_HARDWARE, H_JOIN, H_RANDOM,
                            H_SUCCESS, H_UNASSIGNED, INNER, INNER_COUNT,
                            INNER_OPCODE, INNER_STACK, INNER_START,
                            INNER_STATUS, INNER_VALUE, LEAVE, RAN, SPIN, START,
                            STOP, TICKS)
from testlib.limits import until
from testlib.machine import statistic

CPU = 1     # the vCPU that calls. vCPU 0 can start it again.

# An interrupt handler makes its calls with its own "sc" instruction, or with
# that of the call that it interrupts, and with another stack pointer.
inner_calls = pytest.mark.parametrize(
    'way, stack',
    [*((way, 0) for way in ACCELS.values()), (ACCELS['multi'], 0x8000)],
    ids=[*ACCELS, 'multi-stack'])


@pytest.fixture
def start(guest, fifo):
    """A function that starts a guest on the FIFO, in one of the ACCELS."""
    def function(way, timeout, **kwargs):
        return guest(fifo.backend, '-trace', 'spapr_rng_wait_end',
                     '-trace', 'spapr_rng_receive', interrupts=True,
                     timeout=timeout, **{**way, **kwargs})
    return function


@pytest.fixture
def begun(start):
    """A function that starts a guest whose vCPU CPU waits in a call."""
    def function(way, timeout):
        vm = start(way, timeout)
        begin(vm, CPU)
        return vm
    return function


def begin(vm, cpu):
    """Have a vCPU make a call, which must wait."""
    vm.call(cpus=[cpu])
    until(lambda: vm.get(cpu, START))
    time.sleep(0.05)
    assert not vm.done(cpu)


def interrupt(vm, opcode, stack=0, calls=1):
    """Have the handler of the decrementer make calls, one per interrupt."""
    vm.set(CPU, INNER_OPCODE, opcode)
    vm.set(CPU, INNER_STACK, stack)
    vm.set(CPU, INNER, calls)


def some_ticks(vm):
    """
    Wait until the vCPU has run for a while.

    It takes an interrupt each millisecond, also while it waits.
    """
    before = vm.get(CPU, TICKS)
    until(lambda: vm.get(CPU, TICKS) >= before + 20)


def hold(vm, cpu, how):
    """Have the handler of a vCPU's next interrupt not return."""
    vm.set(cpu, HOLD, how)
    until(lambda: vm.get(cpu, HELD))
    time.sleep(0.05)


def failed(vm):
    """The number of the vCPU's calls, which must all have failed."""
    assert {status for status, _ in vm.results(CPU)} == {H_HARDWARE}
    return len(vm.results(CPU))


def counted(vm):
    return statistic(vm, 'waits'), statistic(vm, 'timeouts')


@inner_calls
def test_inner_times_out(begun, way, stack):
    """The inner call shares the wait of the outer one, and its deadline."""
    vm = begun(way, timeout=1000)
    interrupt(vm, H_RANDOM, stack)
    until(lambda: vm.get(CPU, INNER_COUNT))
    assert vm.get(CPU, INNER_STATUS) == H_HARDWARE
    vm.finish()
    assert failed(vm) == 1
    assert counted(vm) == (1, 2)


@inner_calls
def test_inner_is_answered(begun, fifo, way, stack):
    """The inner call and the outer call each get a word of their own."""
    vm = begun(way, timeout=0)
    interrupt(vm, H_RANDOM, stack)
    until(lambda: vm.get(CPU, INNER_START))
    time.sleep(0.1)
    assert vm.get(CPU, INNER_COUNT) == 0
    fifo.write(source_bytes(0, 1))
    until(lambda: vm.get(CPU, INNER_COUNT))
    assert vm.get(CPU, INNER_STATUS) == H_SUCCESS
    assert vm.get(CPU, INNER_VALUE) == word(0)
    time.sleep(0.1)
    assert not vm.done(CPU)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert vm.values(CPU) == [word(1)]
    # The first answer ended the wait, and the outer call began another one.
    assert counted(vm) == (2, 0)


@inner_calls
def test_other_hypercalls(begun, way, stack):
    """
    Other hypercalls of an interrupt handler do not end the wait of a call.

    If they did, a call that is interrupted each millisecond would begin a wait
    each time.
    """
    vm = begun(way, timeout=1000)
    before = vm.get(CPU, INNER_COUNT)
    interrupt(vm, H_UNASSIGNED, stack, 10 ** 9)
    vm.finish()
    assert vm.get(CPU, INNER_COUNT) >= before + 20
    assert failed(vm) == 1
    assert counted(vm) == (1, 1)
    assert vm.log().count('spapr_rng_wait_end') == 1


@every_accel
def test_held_up(begun, way):
    """
    A call that an interrupt handler delays for long is still the same call.

    If the host's clock decided, the call would get the whole timeout again.
    """
    vm = begun(way, timeout=1000)
    hold(vm, CPU, SPIN)
    time.sleep(2)
    vm.set(CPU, HOLD, 0)
    vm.finish()
    assert failed(vm) == 1
    assert counted(vm) == (1, 1)


def test_given_up(begun):
    """A vCPU that has not tried again for 10 s has given up its wait."""
    vm = begun(ACCELS['multi'], timeout=0)
    hold(vm, CPU, SPIN)
    time.sleep(10.1)
    vm.set(CPU, HOLD, 0)
    until(lambda: counted(vm) == (2, 0))


def leave_and_cede(vm):
    vm.set(CPU, LEAVE, 1)
    until(lambda: vm.done(CPU))
    vm.set(CPU, LEAVE, 0)
    some_ticks(vm)
    begin(vm, CPU)


def join(vm):
    """The next interrupt ends H_JOIN.

    QEMU treats an H_CONFER of a vCPU to itself in the same way.
    """
    interrupt(vm, H_JOIN)
    until(lambda: vm.get(CPU, INNER_COUNT))
    assert vm.get(CPU, INNER_STATUS) == H_SUCCESS


def stop_and_start(vm):
    hold(vm, CPU, STOP)
    vm.set(CPU, HOLD, 0)
    time.sleep(0.2)
    vm.set(CPU, START, 0)
    vm.start_cpu(CPU)
    until(lambda: vm.get(CPU, START))
    assert vm.get(CPU, RAN) == 0


def reset(vm):
    vm.set(CPU, START, 0)
    vm.reset()
    until(lambda: vm.get(CPU, START))


@pytest.mark.parametrize('abandon', [leave_and_cede, join, stop_and_start,
                                     reset])
@every_accel
def test_new_call(begun, fifo, way, abandon):
    """
    After a vCPU has abandoned a call, its next call is a new one.

    If the host's clock decided, a call that comes soon would have the deadline
    of the abandoned call.
    """
    vm = begun(way, timeout=0)
    abandon(vm)
    some_ticks(vm)
    assert not vm.done(CPU)
    fifo.write(source_bytes(0, 1))
    vm.finish()
    assert vm.values(CPU) == [word(0)]
    assert counted(vm) == (2, 0)


@accels('multi', 'single')
def test_held_vcpu(start, fifo, way):
    """
    A vCPU whose interrupt handler does not return delays no other vCPU.

    If other calls had to wait for the first call in the queue, they would wait
    for ever. When the vCPU is back, it is the first to be woken again.
    """
    vm = start(way, timeout=0, cpus=2)
    begin(vm, 0)
    begin(vm, 1)
    hold(vm, 0, SPIN)
    for i in range(5):
        fifo.write(source_bytes(i, i + 1))
        until(lambda: vm.done(1))
        begin(vm, 1)
    assert vm.values(1) == [word(i) for i in range(5)]
    vm.set(0, HOLD, 0)
    time.sleep(0.5)
    fifo.write(source_bytes(5, 6))
    until(lambda: vm.done(0))
    assert vm.values(0) == [word(5)]
    fifo.write(source_bytes(6, 7))
    vm.finish()
    assert vm.values(1)[5:] == [word(6)]


@accels('multi', 'single')
def test_source_is_back(start, fifo, way):
    """
    A dry source has words again while the only waiting vCPU is held.

    If only the first vCPU in the queue noticed the words, other calls would
    fail for ever, because the source was dry before.
    """
    vm = start(way, timeout=1000, cpus=2)
    vm.call(cpus=[CPU])
    until(lambda: statistic(vm, 'waits') == 1)
    vm.call(cpus=[0])
    until(lambda: statistic(vm, 'waits') == 2)
    hold(vm, 0, SPIN)
    until(lambda: vm.done(CPU))
    assert failed(vm) == 1
    fifo.write(source_bytes(0, 8))

    def gets_word():
        vm.call(cpus=[CPU])
        until(lambda: vm.done(CPU))
        return vm.results(CPU)[-1] == (H_SUCCESS, word(0))

    until(gets_word)
    vm.set(0, HOLD, 0)
    vm.finish()


@every_accel
def test_inner_need_not_wait(begun, fifo, way):
    """
    An inner call gets a word that is there, although the outer call waits.

    If the inner call had to wait for the outer call, it would wait for long.
    """
    vm = begun(way, timeout=0)
    hold(vm, CPU, SPIN)
    fifo.write(source_bytes(0, 1))
    until(lambda: 'spapr_rng_receive 8 bytes' in vm.log())
    interrupt(vm, H_RANDOM)
    vm.set(CPU, HOLD, 0)
    until(lambda: vm.get(CPU, INNER_COUNT))
    assert vm.get(CPU, INNER_VALUE) == word(0)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert vm.values(CPU) == [word(1)]
