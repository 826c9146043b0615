# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose calls wait for a source without data."""

import itertools
import os
import random
import signal
import time

import pytest

from testlib.accels import ACCELS, accels, every_accel
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import (H_FUNCTION, H_HARDWARE, H_SUCCESS, H_UNASSIGNED,
                            LEAVE, START, TICKS)
from testlib.limits import HANG, until
from testlib.machine import add_disk, hmp, set_property, statistic

@pytest.fixture
def start(guest, fifo):
    """A function that starts a guest on the FIFO."""
    def function(way, *args, timeout=0, **kwargs):
        return guest(fifo.backend, *args,
                     **way, timeout=timeout,
                     **kwargs)
    return function


@pytest.fixture
def waiting(start):
    """A function that starts a guest, each of whose vCPUs waits in a call."""
    def function(way, *args, **kwargs):
        vm = start(way, *args, **kwargs)
        vm.call()
        assert vm.calls_wait()
        return vm
    return function


def still_waits(vm):
    time.sleep(0.05)
    return vm.calls_wait() and vm.count() == 0


def give(vm, fifo):
    """Write a word for each vCPU, which must complete the vCPU's one call."""
    assert still_waits(vm)
    fifo.write(source_bytes(0, vm.cpus))
    vm.gets_a_word_each()


@every_accel
def test_stop_and_cont(waiting, fifo, way):
    vm = waiting(way)
    vm.qemu.cmd('stop')
    vm.qemu.cmd('cont')
    give(vm, fifo)


@every_accel
def test_bytes_while_stopped(waiting, fifo, way):
    vm = waiting(way)
    vm.qemu.cmd('stop')
    fifo.write(source_bytes(0, vm.cpus))
    assert still_waits(vm)
    vm.qemu.cmd('cont')
    vm.finish()
    assert vm.count() == vm.cpus


@every_accel
def test_reset(waiting, fifo, way):
    """After a reset, the program starts again, and repeats its call."""
    vm = waiting(way)
    vm.reset()
    give(vm, fifo)


@every_accel
def test_snapshot(start, fifo, way, tmp_path):
    """After loadvm, the call of the loaded guest waits, too."""
    vm = start(way)
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm idle')
    vm.call()
    assert vm.calls_wait()
    hmp(vm.qemu, 'savevm saved')
    assert still_waits(vm)
    # The snapshot does not contain these words.
    fifo.write(source_bytes(100, 100 + vm.cpus))
    vm.finish()
    assert vm.count() == vm.cpus
    hmp(vm.qemu, 'loadvm saved')
    give(vm, fifo)


@every_accel
def test_migration(waiting, start, fifo, way, tmp_path):
    """After a migration, the call waits in the new machine."""
    vm = waiting(way)
    path = tmp_path / 'state'
    vm.save(path)
    vm.quit()
    assert vm.count() == 0
    vm = start(way, '-incoming', 'defer', ram=vm.ram)
    vm.restore(path)
    give(vm, fifo)


@every_accel
def test_failed_migration(waiting, fifo, way, tmp_path):
    """A saved guest that continues in its machine continues to wait."""
    vm = waiting(way)
    vm.save(tmp_path / 'state')
    vm.qemu.cmd('cont')
    give(vm, fifo)


@every_accel
def test_quit(waiting, way):
    waiting(way).quit()


@every_accel
def test_sigterm(waiting, way):
    vm = waiting(way)
    os.kill(vm.qemu.get_pid(), signal.SIGTERM)
    vm.qemu.wait(timeout=HANG)
    assert vm.qemu.exitcode() == 0


@every_accel
def test_interrupts(waiting, fifo, way):
    """Each vCPU takes decrementer interrupts while its call waits."""
    vm = waiting(way, interrupts=True)
    for cpu in range(vm.cpus):
        before = vm.get(cpu, TICKS)
        until(lambda: vm.get(cpu, TICKS) >= before + 20)
    give(vm, fifo)


@accels('multi', 'single')
def test_interrupts_are_prompt(waiting, way):
    """
    The sleep of one vCPU does not delay the interrupts of another one.

    If the vCPUs of a thread slept in turn, each would take 240 interrupts a
    second; if they kept the BQL in their sleep, 50.
    """
    vm = waiting(way, interrupts=True)

    def ticks_per_s():
        start = time.monotonic()
        before = [vm.get(cpu, TICKS) for cpu in range(vm.cpus)]
        time.sleep(0.1)
        ticks = min(vm.get(cpu, TICKS) - before[cpu] for cpu in range(vm.cpus))
        return ticks / (time.monotonic() - start)

    # There are up to 1000. A busy host may need more than one try.
    until(lambda: ticks_per_s() >= 400)


@every_accel
def test_slow_source(start, fifo, way):
    """Each word arrives once and in order, in whatever pieces it comes."""
    vm = start(way, interrupts=True)
    calls = 100
    total = vm.cpus * calls
    data = source_bytes(0, total)
    vm.call(calls)
    chance = random.Random(1)
    while data:
        size = chance.choice([1, 2, 7, 8, 9, 50])
        fifo.write(data[:size])
        data = data[size:]
        if chance.random() < 0.1:
            vm.qemu.cmd('stop')
            vm.qemu.cmd('cont')
        time.sleep(chance.random() * 0.004)
    vm.finish()
    values = [vm.values(cpu) for cpu in range(vm.cpus)]
    assert sorted(sum(values, [])) == sorted(map(word, range(total)))
    position = {word(i): i for i in range(total)}
    for got in values:
        assert [position[value] for value in got] == \
            sorted(position[value] for value in got)


@pytest.mark.parametrize('name, share', [
    ('multi', 1 / 4),   # Two threads need a second core of the host, too.
    ('single', 3 / 4),
])
def test_others_go_on(start, fifo, name, share):
    """
    A vCPU that waits takes little time from another one.

    If it kept the BQL in its sleep, the other one would have a tenth left.
    """
    way = ACCELS[name]
    vm = start(dict(way, cpus=2))
    calls = 500000
    rounds = itertools.count()

    def run():
        vm.call(calls, H_UNASSIGNED, [0], record=False)
        until(lambda: vm.done(0))
        return vm.seconds()

    def ratio():
        """Measure both soon after each other, as the host may become busy."""
        alone = min(run() for _ in range(4))
        vm.call(cpus=[1])
        until(lambda: vm.get(1, START))
        beside = min(run() for _ in range(4))
        assert not vm.done(1)
        i = next(rounds)
        fifo.write(source_bytes(i, i + 1))
        vm.finish()
        assert vm.values(1)[-1] == word(i)
        return alone / beside

    until(lambda: ratio() >= share)


@every_accel
def test_timeout(start, fifo, way):
    """
    Calls fail after the timeout, and later calls at once, until data comes.

    If vCPUs waited one after the other, four vCPUs would take 2 s.
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
    waits = statistic(vm, 'waits')
    vm.call(100, cpus=[0])
    vm.finish()
    assert statistic(vm, 'waits') == waits
    for cpu in range(vm.cpus):
        assert {status for status, _ in vm.results(cpu)} == {H_HARDWARE}

    def gets(number):
        vm.call(cpus=[0])
        vm.finish()
        return vm.results()[-1] == (H_SUCCESS, word(number))

    fifo.write(source_bytes(0, 2))
    until(lambda: gets(0))
    assert gets(1)


@every_accel
def test_left_call(waiting, fifo, way):
    """
    A guest may take an interrupt in a call, and never repeat the call.

    Its next call is a new one, which has the whole timeout.
    """
    vm = waiting(way, timeout=5000, interrupts=True)
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 1)
    until(lambda: all(map(vm.done, range(vm.cpus))))
    assert vm.count() == 0
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 0)
    time.sleep(1.3)
    waited = statistic(vm, 'wait-time')
    time.sleep(0.2)
    assert statistic(vm, 'wait-time') == waited < vm.cpus * 5e9
    # A word, so that the source has not been dry since the first call.
    fifo.write(source_bytes(0, 1))
    start = time.monotonic()
    vm.call(2)
    vm.finish()
    assert time.monotonic() - start >= 4.9
    results = sum((vm.results(cpu) for cpu in range(vm.cpus)), [])
    assert results.count((H_SUCCESS, word(0))) == 1
    assert [status for status, _ in results].count(H_HARDWARE) == \
        2 * vm.cpus - 1
    assert statistic(vm, 'waits') >= 2 * vm.cpus


@every_accel
def test_paused_host(waiting, fifo, way):
    """A call continues to wait after QEMU was stopped by SIGSTOP."""
    vm = waiting(way)
    pid = vm.qemu.get_pid()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(pid, signal.SIGCONT)
    give(vm, fifo)


@every_accel
def test_unrealized(waiting, fifo, way):
    """Calls get H_FUNCTION while the device is not realized."""
    vm = waiting(way, timeout=0)

    def realize(value):
        set_property(vm, 'realized', value)

    realize(False)
    vm.finish()
    for cpu in range(vm.cpus):
        assert [status for status, _ in vm.results(cpu)] == [H_FUNCTION]
    realize(True)
    fifo.write(source_bytes(0, vm.cpus))
    vm.call()
    vm.finish()
    assert sorted(vm.results(cpu)[1] for cpu in range(vm.cpus)) == \
        sorted((H_SUCCESS, word(cpu)) for cpu in range(vm.cpus))
    vm.quit()
