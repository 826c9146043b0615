# SPDX-License-Identifier: GPL-2.0-or-later
"""How several vCPUs share the words, and what one that waits costs others."""

import itertools
import statistics
import time

import pytest

from testlib.bare_metal import source_bytes
from testlib.hcalls import (ATOMIC, COUNT, H_UNASSIGNED, INTERVAL, TB_HZ,
                            TICKS)
from testlib.limits import until
from testlib.machine import URANDOM, add_disk, cpu_share, hmp, statistic

THREADS = pytest.mark.parametrize('thread', ['multi', 'single'])
FOR_EVER = 10 ** 9


def words(rate):
    """The words of a source, so many a second, one by one."""
    start = time.monotonic()
    for i in itertools.count():
        time.sleep(max(0, start + i / rate - time.monotonic()))
        yield source_bytes(i, i + 1)


def check_shares(vm):
    """
    Check that vCPUs which call all the time get equally many words of a slow
    source, within 10 %, once each has 20.

    Words come in bursts if the host is busy, so it may need more than one try.
    Rates are so low that a burst of 50 ms has a word for each of 32 vCPUs at
    most: if it had hundreds, the first vCPU to run again would get most.
    """
    vm.call(FOR_EVER)

    def counts():
        return [vm.get(cpu, COUNT) for cpu in range(vm.cpus)]

    def unevenness():
        before = counts()
        until(lambda: sum(counts()) - sum(before) >= 20 * vm.cpus)
        got = [now - then for now, then in zip(counts(), before)]
        mean = sum(got) / vm.cpus
        return max(abs(count - mean) for count in got) / mean

    # Without fair turns, one of some hundred tries is even by chance.
    until(lambda: all(unevenness() <= 0.1 for _ in range(3)))


@THREADS
@pytest.mark.parametrize('cpus, rate', [(4, 20), (8, 100), (32, 500)])
def test_fifo(guest, fifo, thread, cpus, rate):
    with fifo.fed(words(rate)):
        check_shares(guest(fifo.backend, accel=f'tcg,thread={thread}',
                           cpus=cpus, timeout=0))


# With -icount, the guest's time does not pass while the host is busy. There,
# the vCPU that runs must not take all words of its time slice.
@pytest.mark.parametrize('way, cpus, rate', [
    ({'accel': 'tcg,thread=multi'}, 8, 500),
    ({'accel': 'tcg,thread=multi'}, 32, 500),
    ({'accel': 'tcg,thread=single'}, 8, 500),
    ({'accel': 'tcg,thread=single'}, 32, 500),
    ({'icount': 'shift=7', 'accel': 'tcg,thread=single'}, 32, 10000),
], ids=str)
def test_quota(guest, way, cpus, rate):
    check_shares(guest(URANDOM, **way, cpus=cpus, timeout=0,
                       max_bytes=8 * rate, period=1000))


@THREADS
def test_waits_are_even(guest, fifo, thread):
    """
    No call fails while calls wait for 0.8 of their timeout on average.

    If a vCPU that tries by chance could have the word for which another one
    was woken, some vCPUs would wait much longer than others.
    """
    with fifo.fed(words(10)):
        vm = guest(fifo.backend, accel=f'tcg,thread={thread}', cpus=8,
                   timeout=1000)
        vm.call(FOR_EVER)

        def no_call_fails():
            before = statistic(vm, 'timeouts')
            end = vm.count() + 160
            until(lambda: vm.count() >= end)
            return statistic(vm, 'timeouts') == before

        # A busy host may be late with a word.
        until(no_call_fails)


@pytest.mark.parametrize('thread, share', [('multi', 0.7), ('single', 0.5)])
def test_fast_source(guest, thread, share):
    """
    Many vCPUs get about as many words of a fast source as four.

    If vCPUs got words strictly in turn, each turn would take as long as to
    wake a vCPU, and 16 would get a twentieth.
    """
    cpus = 32
    vm = guest(URANDOM, accel=f'tcg,thread={thread}', cpus=cpus)
    for cpu in range(cpus):
        vm.set(cpu, INTERVAL, TB_HZ // 100)

    def rate(callers):
        vm.call(10 ** 6 // callers, cpus=range(callers), record=False)
        vm.finish()
        return 1 / vm.seconds(range(callers))

    # A busy host may need more than one try.
    until(lambda: rate(cpus) >= share * rate(4))
    # If its thread falls behind, /dev/urandom is read at once.
    assert statistic(vm, 'waits') == 0


def test_wake_up(guest):
    """
    With one thread, a vCPU that is woken tries at once.

    If it waited until another vCPU of its thread had slept, each of the 16000
    words would take 20 ms.
    """
    vm = guest(URANDOM, accel='tcg,thread=single', cpus=16, timeout=0,
               pool_size=8)
    vm.call(1000)
    vm.finish()
    assert statistic(vm, 'bytes') == 16000 * 8


def alone_and_beside(vm, fifo, measure):
    """Measure vCPU 0 while other vCPUs are idle, and while they wait.

    Both soon after each other, as the host may become busy.
    """
    others = range(1, vm.cpus)
    alone = measure()
    vm.begin(others)
    beside = measure()
    assert not any(map(vm.done, others))
    fifo.write(source_bytes(0, len(others)))
    vm.finish()
    return alone, beside


def test_others_go_on(guest, fifo):
    """
    With one thread, a vCPU that waits takes little time from another one.

    It must sleep only while no other vCPU needs the thread.
    """
    vm = guest(fifo.backend, accel='tcg,thread=single', cpus=2, timeout=0)

    def run():
        vm.call(500000, H_UNASSIGNED, [0], record=False)
        until(lambda: vm.done(0))
        return vm.seconds()

    def ratio():
        alone, beside = alone_and_beside(
            vm, fifo, lambda: min(run() for _ in range(4)))
        return alone / beside

    until(lambda: ratio() >= 3 / 4)


def test_exclusive_sections(guest, fifo, tmp_path):
    """
    A vCPU that waits does not delay exclusive operations of another one.

    TCG stops all other vCPUs for each atomic operation. If it had to wake each
    vCPU, operations would take ten times longer. The monitor stops vCPUs, too,
    although such operations never cease.
    """
    vm = guest(fifo.backend, cpus=9, timeout=0)

    def microseconds():
        vm.call(3000, cpus=[0], record=ATOMIC)
        until(lambda: vm.done(0))
        return [ticks * 1e6 / TB_HZ for ticks in vm.durations()]

    def is_quick():
        alone, beside = alone_and_beside(vm, fifo, microseconds)
        return max(beside) < 5000 and \
            statistics.median(beside) <= 3 * statistics.median(alone) + 2

    until(is_quick)
    add_disk(vm.qemu, tmp_path)
    vm.begin(range(1, vm.cpus))
    vm.call(FOR_EVER, cpus=[0], record=ATOMIC)
    for _ in range(5):
        for _ in range(10):
            vm.qemu.cmd('stop')
            vm.qemu.cmd('cont')
        hmp(vm.qemu, 'savevm saved')
        hmp(vm.qemu, 'loadvm saved')
        vm.reset()
        assert vm.calls_wait()
    fifo.write(source_bytes(0, 8))
    until(lambda: all(map(vm.done, range(1, vm.cpus))))
    vm.quit()


@pytest.mark.parametrize('interrupts', [False, True])
@pytest.mark.parametrize('cpus', [1, 4])
@pytest.mark.parametrize('sleep', ['on', 'off'])
def test_clock(guest, fifo, sleep, cpus, interrupts):
    """
    With -icount, the guest's clock goes on in a wait, but never races ahead.

    With sleep=off, an idle guest's clock jumps to its next timer at once. If
    it did so in a wait, hours could pass, and QEMU would use up a core.
    """
    vm = guest(fifo.backend, icount=f'shift=3,sleep={sleep}', cpus=cpus,
               interrupts=interrupts, timeout=0)
    start = time.monotonic()
    vm.begin()
    if interrupts:
        for cpu in range(cpus):
            before = vm.get(cpu, TICKS)
            until(lambda: vm.get(cpu, TICKS) >= before + 100)
    else:
        until(lambda: cpu_share(vm.qemu, 1) < 0.05)
    fifo.write(source_bytes(0, cpus))
    vm.finish()
    assert 0.1 < vm.seconds(range(cpus)) < 1.2 * (time.monotonic() - start)
    vm.quit()


@pytest.mark.parametrize('way', [{'accel': 'tcg,thread=single'},
                                 {'icount': 'shift=3'}], ids=str)
def test_tries_of_many(guest, fifo, way):
    """
    vCPUs that share a thread share their sleep: each tries every 20 ms.

    The time that a call has waited counts once, up to its last try. If 64
    vCPUs slept for 20 ms in turn, that would be 0.64 s ago on average.
    """
    cpus = 64
    vm = guest(fifo.backend, **way, cpus=cpus, timeout=0)
    began = time.monotonic()
    vm.begin()
    until(lambda: statistic(vm, 'waits') == cpus)
    all_wait = time.monotonic()

    def last_try():
        """How long ago it is on average, in seconds, and a little less."""
        waited = statistic(vm, 'wait-time') / 1e9 / cpus
        now = time.monotonic()
        assert waited <= now - began
        return now - all_wait - waited

    time.sleep(2)
    until(lambda: last_try() < 0.2)
