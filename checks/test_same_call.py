# SPDX-License-Identifier: GPL-2.0-or-later
"""Which calls are the one that waits, made again, and which are new ones."""

import re
import time

import pytest

from test_waiting import WAYS, every_way, ways
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import (AWAY, END, HELD, HOLD, H_HARDWARE, H_JOIN,
                            H_RANDOM, H_SUCCESS, H_UNASSIGNED, INNER,
                            INNER_COUNT, INNER_END, INNER_OPCODE, INNER_STACK,
                            INNER_START, INNER_STATUS, INNER_VALUE, INTERVAL,
                            LEAVE, RAN, SPIN, START, STOP, TB_HZ, TICKS)
from testlib.limits import until
from testlib.machine import statistic

# Calls of an interrupt handler come from an "sc" of its own, or from that of
# the call that it interrupts, with another stack pointer.
inner_calls = pytest.mark.parametrize(
    'way, stack',
    [*((way, 0) for way in WAYS.values()), (WAYS['multi'], 0x8000)],
    ids=[*WAYS, 'multi-stack'])


@pytest.fixture
def start(guest, fifo):
    """A function that starts a guest on the FIFO, as WAYS says."""
    def function(way, timeout, cpus=None, **kwargs):
        return guest(fifo.backend, '-trace', 'spapr_rng_wait_end',
                     **{**way, 'cpus': cpus or way['cpus']}, interrupts=True,
                     timeout=timeout, **kwargs)
    return function


@pytest.fixture
def begun(start):
    """The same, whose last vCPU waits in a call; returns both."""
    def function(way, timeout):
        vm = start(way, timeout)
        begin(vm, vm.cpus - 1)
        return vm, vm.cpus - 1
    return function


def begin(vm, cpu):
    """Have a vCPU make a call, which waits."""
    vm.call(cpus=[cpu])
    until(lambda: vm.get(cpu, START))
    time.sleep(0.05)
    assert not vm.done(cpu)


def interrupt(vm, cpu, opcode, stack=0, calls=1):
    """Have the decrementer's handler make calls, one each time."""
    vm.set(cpu, INNER_OPCODE, opcode)
    vm.set(cpu, INNER_STACK, stack)
    vm.set(cpu, INNER, calls)


def inner_gets_word(vm, cpu, fifo, stack):
    """Have the handler make a call, which waits, then gets word 0."""
    interrupt(vm, cpu, H_RANDOM, stack)
    until(lambda: counted(vm) == (2, 0))
    time.sleep(0.1)
    assert vm.get(cpu, INNER_COUNT) == 0
    fifo.write(source_bytes(0, 1))
    until(lambda: vm.get(cpu, INNER_COUNT))
    assert vm.get(cpu, INNER_STATUS) == H_SUCCESS
    assert vm.get(cpu, INNER_VALUE) == word(0)


def ages(vm):
    """
    How many seconds each call that ended had waited, in this order.

    This is by QEMU's own reckoning, which decides when a call times out.
    """
    return [int(ns) / 1e9 for ns in re.findall(
        r'^spapr_rng_wait_end cpu \d+: (\d+) ns$', vm.log(), re.MULTILINE)]


def some_ticks(vm, cpu):
    """
    Give a vCPU time to go on.

    It takes an interrupt each millisecond, whatever it does or waits for.
    """
    before = vm.get(cpu, TICKS)
    until(lambda: vm.get(cpu, TICKS) >= before + 20)


def check_new_call(vm, way, fifo, cpu, first, before):
    """
    The call that this vCPU waits in has not waited longer than there is.

    first: the note of the vCPU's time base at which it began at the earliest
    before: the host's time then, or earlier
    """
    some_ticks(vm, cpu)
    assert not vm.done(cpu)
    fifo.write(source_bytes(0, 1))
    vm.finish()
    assert ages(vm)[-1] <= lasted(vm, way, cpu, first, END, before)
    assert vm.values(cpu) == [word(0)]
    assert counted(vm) == (2, 0)
    vm.quit()


def hold(vm, cpu, how):
    """Have a vCPU's next interrupt not come back."""
    vm.set(cpu, HOLD, how)
    until(lambda: vm.get(cpu, HELD))
    time.sleep(0.05)


def lasted(vm, way, cpu, first, last, before):
    """
    Seconds between two notes of a vCPU's time base; the later one is new.

    With icount, whose time is the guest's instructions, it is those since
    the host's time `before`.
    """
    if 'icount' in way:
        return time.monotonic() - before
    return (vm.get(cpu, last) - vm.get(cpu, first)) / TB_HZ


def failed(vm, cpu):
    """How that vCPU's calls ended; all of them have failed."""
    assert {status for status, _ in vm.results(cpu)} == {H_HARDWARE}
    return len(vm.results(cpu))


def counted(vm):
    return statistic(vm, 'waits'), statistic(vm, 'timeouts')


@pytest.mark.parametrize('cpus', [5, 12, 16, 64])
def test_late_turns(guest, fifo, cpus):
    """
    A call times out in the turn after its time, however late turns come.

    Where the host's clock decides that a call which was not repeated for a
    second is a new one, it never ends.
    """
    vm = guest(fifo.backend, accel='tcg,thread=single', cpus=cpus,
               timeout=1000)
    caller = cpus - 1
    for cpu in range(cpus):
        vm.set(cpu, INTERVAL, TB_HZ // 100)
    begin(vm, caller)
    for cpu in range(caller):
        vm.set(cpu, HOLD, SPIN)
    until(lambda: vm.done(caller))
    assert failed(vm, caller) == 1
    assert counted(vm) == (1, 1)
    assert vm.seconds([caller]) >= 1

    def away():
        return [vm.get(cpu, AWAY) / TB_HZ for cpu in range(caller)]

    until(lambda: min(away()) > 0.05)
    assert vm.seconds([caller]) <= 1 + 2 * max(away())
    vm.quit()


@inner_calls
def test_inner_times_out(begun, way, stack):
    """
    A call of an interrupt handler has all of its time, and the outer one its.

    Where a vCPU has but one call, the inner one takes over its deadline, or
    the outer one gets a new one.
    """
    vm, cpu = begun(way, timeout=1000)
    until(lambda: counted(vm) == (1, 0))
    time.sleep(0.4)
    before = time.monotonic()
    interrupt(vm, cpu, H_RANDOM, stack)
    until(lambda: vm.get(cpu, INNER_COUNT))
    assert lasted(vm, way, cpu, INNER_START, INNER_END, before) >= 1
    assert vm.get(cpu, INNER_STATUS) == H_HARDWARE
    vm.finish()
    inner, outer = ages(vm)
    assert outer >= inner + 0.4
    assert failed(vm, cpu) == 1
    assert counted(vm) == (2, 2)
    vm.quit()


@inner_calls
def test_inner_is_answered(begun, fifo, way, stack):
    """Where the two are mixed up, one gets no word, or both the same."""
    vm, cpu = begun(way, timeout=0)
    inner_gets_word(vm, cpu, fifo, stack)
    time.sleep(0.1)
    assert not vm.done(cpu)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert vm.values(cpu) == [word(1)]
    assert counted(vm) == (2, 0)
    vm.quit()


@inner_calls
def test_outer_deadline_goes_on(begun, fifo, way, stack):
    """
    An inner call that is answered leaves the outer one its deadline.

    Where a vCPU has but one call, the outer one has all of its time again.
    """
    vm, cpu = begun(way, timeout=0)
    until(lambda: counted(vm) == (1, 0))
    time.sleep(0.3)
    inner_gets_word(vm, cpu, fifo, stack)
    time.sleep(0.1)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    inner, outer = ages(vm)
    assert outer >= 0.3 + inner + 0.1
    assert vm.values(cpu) == [word(1)]
    assert counted(vm) == (2, 0)
    vm.quit()


@inner_calls
def test_other_hypercalls(begun, way, stack):
    """
    What an interrupt handler asks of the hypervisor does not end a wait.

    Where it does, a call that is interrupted each millisecond never times out.
    """
    vm, cpu = begun(way, timeout=1000)
    before = vm.get(cpu, INNER_COUNT)
    interrupt(vm, cpu, H_UNASSIGNED, stack, 10 ** 9)
    vm.finish()
    assert vm.get(cpu, INNER_COUNT) >= before + 20
    assert failed(vm, cpu) == 1
    assert counted(vm) == (1, 1)
    vm.quit()


@every_way
def test_held_up(begun, way):
    """
    A call that an interrupt handler held up for long is the same one.

    Where the host's clock decides, it has all of its time again.
    """
    vm, cpu = begun(way, timeout=1000)
    hold(vm, cpu, SPIN)
    time.sleep(2)
    vm.set(cpu, HOLD, 0)
    vm.finish()
    assert ages(vm)[-1] >= 2
    assert failed(vm, cpu) == 1
    assert counted(vm) == (1, 1)
    vm.quit()


@every_way
def test_ceded(begun, fifo, way):
    """
    A vCPU that left a call and ceded makes a new one, however soon.

    Where the host's clock decides, that has the time that the left one had.
    """
    vm, cpu = begun(way, timeout=0)
    time.sleep(0.1)
    vm.set(cpu, LEAVE, 1)
    until(lambda: vm.done(cpu))
    vm.set(cpu, LEAVE, 0)
    some_ticks(vm, cpu)
    before = time.monotonic()
    begin(vm, cpu)
    check_new_call(vm, way, fifo, cpu, START, before)


@ways('multi', 'single', 'icount-4')
def test_joined(start, fifo, way):
    """
    Nor does a call go on after H_JOIN, which the next interrupt ends.

    H_CONFER to itself is the same to QEMU.
    """
    vm = start(way, timeout=0)
    begin(vm, 1)
    time.sleep(0.1)
    before = time.monotonic()
    interrupt(vm, 1, H_JOIN)
    until(lambda: vm.get(1, INNER_COUNT))
    assert vm.get(1, INNER_STATUS) == H_SUCCESS
    check_new_call(vm, way, fifo, 1, INNER_END, before)


@ways('multi', 'single', 'icount-4')
def test_stopped_and_started(start, fifo, way):
    """A vCPU that stopped itself in a call makes a new one, likewise."""
    vm = start(way, timeout=0)
    begin(vm, 1)
    time.sleep(0.1)
    hold(vm, 1, STOP)
    vm.set(1, HOLD, 0)
    first = vm.get(1, START)
    before = time.monotonic()
    vm.start_cpu(1)
    until(lambda: vm.get(1, START) != first)
    assert vm.get(1, RAN) == 0
    check_new_call(vm, way, fifo, 1, START, before)


@every_way
def test_reset(begun, fifo, way):
    """So does one that is reset."""
    vm, cpu = begun(way, timeout=0)
    time.sleep(0.1)
    first = vm.get(cpu, START)
    before = time.monotonic()
    vm.reset()
    until(lambda: vm.get(cpu, START) != first)
    check_new_call(vm, way, fifo, cpu, START, before)


@ways('multi', 'single', 'icount-4')
def test_stays_stopped(start, fifo, way):
    """
    A vCPU that stopped itself in a call does nothing more, nor is it served.

    With icount, waiting vCPUs are halted and run again; it must not be one.
    """
    vm = start(way, timeout=0, cpus=2)
    begin(vm, 1)
    hold(vm, 1, STOP)
    begin(vm, 0)
    time.sleep(0.5)
    assert vm.get(1, RAN) == 0
    fifo.write(source_bytes(0, 1))
    until(lambda: vm.done(0))
    assert vm.values(0) == [word(0)]
    assert vm.get(1, RAN) == 0
    assert not vm.done(1)
    vm.quit()


@ways('multi', 'single')
def test_passed_over(start, fifo, way):
    """
    A vCPU that an interrupt keeps from its call holds up nobody.

    Where others wait for the first in line to come back, they do for ever.
    When it is back, it is the first again.
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
    vm.quit()


@ways('multi', 'single')
def test_source_is_back(start, fifo, way):
    """
    The only one in line is away when the source, which was dry, has words.

    Where a call fails because the source was dry, and the first in line alone
    would find out that it no longer is, calls fail for ever.
    """
    vm = start(way, timeout=1000, cpus=2)
    vm.call(cpus=[1])
    until(lambda: statistic(vm, 'waits') == 1)
    vm.call(cpus=[0])
    until(lambda: statistic(vm, 'waits') == 2)
    hold(vm, 0, SPIN)
    until(lambda: vm.done(1))
    assert failed(vm, 1) == 1
    fifo.write(source_bytes(0, 8))

    def gets_word():
        vm.call(cpus=[1])
        until(lambda: vm.done(1))
        return vm.results(1)[-1] == (H_SUCCESS, word(0))

    until(gets_word)
    vm.set(0, HOLD, 0)
    vm.finish()
    vm.quit()


@every_way
def test_inner_need_not_wait(begun, fifo, way):
    """
    There is a word when an interrupt handler makes a call.

    Where it has to wait for the call that it interrupts, it waits for long.
    """
    vm, cpu = begun(way, timeout=0)
    hold(vm, cpu, SPIN)
    fifo.write(source_bytes(0, 1))
    until(lambda: not fifo.unread())
    interrupt(vm, cpu, H_RANDOM)
    vm.set(cpu, HOLD, 0)
    until(lambda: vm.get(cpu, INNER_COUNT))
    assert vm.get(cpu, INNER_VALUE) == word(0)
    assert counted(vm) == (1, 0)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert vm.values(cpu) == [word(1)]
    vm.quit()
