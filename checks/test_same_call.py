# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a call is a repetition of the call that waits, or a new call.

In the comments, the "outer" call is one that waits while an interrupt handler
of its vCPU makes an "inner" call.
"""

import re
import time

import pytest

from testlib.accels import ACCELS, accels, every_accel
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import (AWAY, END, HELD, HOLD, H_HARDWARE, H_JOIN,
                            H_RANDOM, H_SUCCESS, H_UNASSIGNED, INNER,
                            INNER_COUNT, INNER_END, INNER_OPCODE, INNER_STACK,
                            INNER_START, INNER_STATUS, INNER_VALUE, INTERVAL,
                            LEAVE, RAN, SPIN, START, STOP, TB_HZ, TICKS)
from testlib.limits import until
from testlib.machine import statistic

# An interrupt handler makes its calls with its own "sc" instruction, or with
# that of the call that it interrupts, and with another stack pointer.
inner_calls = pytest.mark.parametrize(
    'way, stack',
    [*((way, 0) for way in ACCELS.values()), (ACCELS['multi'], 0x8000)],
    ids=[*ACCELS, 'multi-stack'])


@pytest.fixture
def start(guest, fifo):
    """A function that starts a guest on the FIFO, in one of the ACCELS."""
    def function(way, timeout, cpus=None, **kwargs):
        return guest(fifo.backend, '-trace', 'spapr_rng_wait_end',
                     '-trace', 'spapr_rng_receive',
                     **{**way, 'cpus': cpus or way['cpus']}, interrupts=True,
                     timeout=timeout, **kwargs)
    return function


@pytest.fixture
def begun(start):
    """A function that starts a guest whose last vCPU waits in a call.

    The function returns the guest and the number of the vCPU.
    """
    def function(way, timeout):
        vm = start(way, timeout)
        begin(vm, vm.cpus - 1)
        return vm, vm.cpus - 1
    return function


def begin(vm, cpu):
    """Have a vCPU make a call, which must wait."""
    vm.call(cpus=[cpu])
    until(lambda: vm.get(cpu, START))
    time.sleep(0.05)
    assert not vm.done(cpu)


def interrupt(vm, cpu, opcode, stack=0, calls=1):
    """Have the handler of the decrementer make calls, one per interrupt."""
    vm.set(cpu, INNER_OPCODE, opcode)
    vm.set(cpu, INNER_STACK, stack)
    vm.set(cpu, INNER, calls)


def ages(vm):
    """
    The seconds that each call had waited when it ended, in the order of ends.

    The figures are QEMU's own. A call that times out may have waited a little
    less than the timeout: the source was found dry before the wait began.
    """
    return [int(ns) / 1e9 for ns in re.findall(
        r'^spapr_rng_wait_end cpu \d+: (\d+) ns$', vm.log(), re.MULTILINE)]


def some_ticks(vm, cpu):
    """
    Wait until a vCPU has run for a while.

    It takes an interrupt each millisecond, also while it waits.
    """
    before = vm.get(cpu, TICKS)
    until(lambda: vm.get(cpu, TICKS) >= before + 20)


def check_new_call(vm, way, fifo, cpu, first, before):
    """
    Check that a vCPU's call is a new one: it did not wait before its start.

    first: the field with the time base before the start of the call
    before: the host's time before the start of the call
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
    """Have the handler of a vCPU's next interrupt not return."""
    vm.set(cpu, HOLD, how)
    until(lambda: vm.get(cpu, HELD))
    time.sleep(0.05)


def lasted(vm, way, cpu, first, last, before):
    """
    The seconds between two fields with times of a vCPU's time base.

    With icount, the time base counts the guest's instructions. The result is
    then the host's time since `before`; the time in `last` must be recent.
    """
    if 'icount' in way:
        return time.monotonic() - before
    return (vm.get(cpu, last) - vm.get(cpu, first)) / TB_HZ


def failed(vm, cpu):
    """The number of a vCPU's calls, which must all have failed."""
    assert {status for status, _ in vm.results(cpu)} == {H_HARDWARE}
    return len(vm.results(cpu))


def counted(vm):
    return statistic(vm, 'waits'), statistic(vm, 'timeouts')


@pytest.mark.parametrize('cpus', [5, 12, 16, 64])
def test_late_tries(guest, fifo, cpus):
    """
    A call times out in the first try after its deadline, however late.

    If QEMU took a call that was not repeated for a second for a new call, the
    call would never end.
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
    """The inner call shares the wait of the outer one, and its deadline."""
    vm, cpu = begun(way, timeout=1000)
    interrupt(vm, cpu, H_RANDOM, stack)
    until(lambda: vm.get(cpu, INNER_COUNT))
    assert vm.get(cpu, INNER_STATUS) == H_HARDWARE
    vm.finish()
    assert failed(vm, cpu) == 1
    assert ages(vm)[0] >= 0.5
    assert counted(vm) == (1, 2)
    vm.quit()


@inner_calls
def test_inner_is_answered(begun, fifo, way, stack):
    """The inner call and the outer call each get a word of their own."""
    vm, cpu = begun(way, timeout=0)
    interrupt(vm, cpu, H_RANDOM, stack)
    until(lambda: vm.get(cpu, INNER_START))
    time.sleep(0.1)
    assert vm.get(cpu, INNER_COUNT) == 0
    fifo.write(source_bytes(0, 1))
    until(lambda: vm.get(cpu, INNER_COUNT))
    assert vm.get(cpu, INNER_STATUS) == H_SUCCESS
    assert vm.get(cpu, INNER_VALUE) == word(0)
    time.sleep(0.1)
    assert not vm.done(cpu)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert vm.values(cpu) == [word(1)]
    # The first answer ended the wait, and the outer call began another one.
    assert counted(vm) == (2, 0)
    vm.quit()


@inner_calls
def test_other_hypercalls(begun, way, stack):
    """
    Other hypercalls of an interrupt handler do not end the wait of a call.

    If they did, a call that is interrupted each millisecond would begin a wait
    each time.
    """
    vm, cpu = begun(way, timeout=1000)
    before = vm.get(cpu, INNER_COUNT)
    interrupt(vm, cpu, H_UNASSIGNED, stack, 10 ** 9)
    vm.finish()
    assert vm.get(cpu, INNER_COUNT) >= before + 20
    assert failed(vm, cpu) == 1
    assert ages(vm)[0] >= 0.5
    assert counted(vm) == (1, 1)
    vm.quit()


@every_accel
def test_held_up(begun, way):
    """
    A call that an interrupt handler delays for long is still the same call.

    If the host's clock decided, the call would get the whole timeout again.
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


@every_accel
def test_ceded(begun, fifo, way):
    """
    After a vCPU has abandoned a call and ceded, its next call is a new one.

    If the host's clock decided, a call that comes soon would have the deadline
    of the abandoned call.
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


@every_accel
def test_joined(start, fifo, way):
    """
    After H_JOIN, which the next interrupt ends, the call is a new one.

    QEMU treats an H_CONFER of a vCPU to itself in the same way.
    """
    vm = start(way, timeout=0)
    begin(vm, 1)
    time.sleep(0.1)
    before = time.monotonic()
    interrupt(vm, 1, H_JOIN)
    until(lambda: vm.get(1, INNER_COUNT))
    assert vm.get(1, INNER_STATUS) == H_SUCCESS
    check_new_call(vm, way, fifo, 1, INNER_END, before)


@every_accel
def test_stopped_and_started(start, fifo, way):
    """After a vCPU has stopped itself in a call, its next call is new."""
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


@every_accel
def test_reset(begun, fifo, way):
    """After a reset, the call of a vCPU is a new one."""
    vm, cpu = begun(way, timeout=0)
    time.sleep(0.1)
    first = vm.get(cpu, START)
    before = time.monotonic()
    vm.reset()
    until(lambda: vm.get(cpu, START) != first)
    check_new_call(vm, way, fifo, cpu, START, before)


@every_accel
def test_stays_stopped(start, fifo, way):
    """
    A vCPU that stopped itself in a call does not run, and gets no word.

    With icount, QEMU halts vCPUs that wait, and runs them again. It must not
    run a vCPU that has stopped itself.
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
    vm.quit()


@accels('multi', 'single')
def test_source_is_back(start, fifo, way):
    """
    A dry source has words again while the only waiting vCPU is held.

    If only the first vCPU in the queue noticed the words, other calls would
    fail for ever, because the source was dry before.
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


@every_accel
def test_inner_need_not_wait(begun, fifo, way):
    """
    An inner call gets a word that is there, although the outer call waits.

    If the inner call had to wait for the outer call, it would wait for long.
    """
    vm, cpu = begun(way, timeout=0)
    hold(vm, cpu, SPIN)
    fifo.write(source_bytes(0, 1))
    until(lambda: 'spapr_rng_receive 8 bytes' in vm.log())
    interrupt(vm, cpu, H_RANDOM)
    vm.set(cpu, HOLD, 0)
    until(lambda: vm.get(cpu, INNER_COUNT))
    assert vm.get(cpu, INNER_VALUE) == word(0)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert vm.values(cpu) == [word(1)]
    vm.quit()
