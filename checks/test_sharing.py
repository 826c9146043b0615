# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs that call all the time share the words, with one thread or several."""

import itertools
import time

import pytest

from testlib.bare_metal import source_bytes
from testlib.hcalls import COUNT, H_SUCCESS, INTERVAL, TB_HZ
from testlib.limits import HANG, until
from testlib.machine import URANDOM, statistic

THREADS = pytest.mark.parametrize('thread', ['multi', 'single'])
FOR_EVER = 10 ** 9


def words(rate):
    """The words of a source, so many a second, one by one."""
    start = time.monotonic()
    for i in itertools.count():
        time.sleep(max(0, start + i / rate - time.monotonic()))
        yield source_bytes(i, i + 1)


@pytest.fixture
def share(guest):
    """
    A function that checks that vCPUs get the same number of words from a slow
    source, within 10 %, once each has 20.

    Words come in bursts if the host is busy, so it may need more than one try.
    Rates are so low that a burst of 50 ms has a word for each of 32 vCPUs at
    most: if it had hundreds, the first vCPU to run again would get most.
    """
    def function(thread, cpus, backend, **kwargs):
        vm = guest(backend, accel=f'tcg,thread={thread}', cpus=cpus,
                   timeout=1000 * HANG, **kwargs)
        vm.call(FOR_EVER)

        def counts():
            return [vm.get(cpu, COUNT) for cpu in range(cpus)]

        def unevenness():
            before = counts()
            until(lambda: sum(counts()) - sum(before) >= 20 * cpus)
            got = [now - then for now, then in zip(counts(), before)]
            mean = sum(got) / cpus
            return max(abs(count - mean) for count in got) / mean

        until(lambda: all(counts()))
        # Without fair turns, one of some hundred tries is even by chance.
        until(lambda: all(unevenness() <= 0.1 for _ in range(3)))
    return function


@THREADS
@pytest.mark.parametrize('cpus, rate', [(4, 20), (8, 100), (32, 500)])
def test_fifo(share, fifo, thread, cpus, rate):
    with fifo.fed(words(rate)):
        share(thread, cpus, fifo.backend)


@THREADS
@pytest.mark.parametrize('cpus', [8, 32])
def test_quota(share, thread, cpus):
    share(thread, cpus, URANDOM, max_bytes=8 * 500, period=1000)


def test_time_slice(share):
    """
    The vCPU that runs does not take all words of its time slice.

    With -icount, the guest's time does not pass while the host is busy.
    """
    share('single', 32, URANDOM, icount='shift=7', max_bytes=80000,
          period=1000)


@THREADS
def test_waits_are_even(guest, fifo, thread):
    """
    No call fails while calls wait for 0.8 of their timeout on average.

    If a vCPU that tries by chance could have the word for which another one
    was woken, some vCPUs would wait much longer than others.
    """
    cpus, rate = 8, 10
    timeout = int(1000 * cpus / rate / 0.8)

    def no_call_fails():
        """While the guest gets 160 words; on a busy host, one may be late."""
        before = statistic(vm, 'timeouts')
        end = vm.count() + 20 * cpus
        until(lambda: vm.count() >= end)
        return statistic(vm, 'timeouts') == before

    with fifo.fed(words(rate)):
        vm = guest(fifo.backend, accel=f'tcg,thread={thread}', cpus=cpus,
                   timeout=timeout)
        vm.call(FOR_EVER)
        until(lambda: statistic(vm, 'bytes') >= 8 * 2 * cpus)
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
    for cpu in range(16):
        assert {status for status, _ in vm.results(cpu)} == {H_SUCCESS}
