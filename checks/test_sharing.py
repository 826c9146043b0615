# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs that call all the time share the words, with one thread or several."""

import contextlib
import threading
import time

import pytest

from testlib.bare_metal import source_bytes
from testlib.egd import EgdDaemon
from testlib.hcalls import COUNT, H_SUCCESS, INTERVAL, TB_HZ
from testlib.limits import HANG, until
from testlib.machine import URANDOM, statistic

THREADS = pytest.mark.parametrize('thread', ['multi', 'single'])
FOR_EVER = 10 ** 9


class Feeder:
    """Writes words to a FIFO, one by one, while the block runs."""

    def __init__(self, fifo, rate):
        self._fifo = fifo
        self._rate = rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _feed(self):
        count, due = 0, time.monotonic()
        while not self._over.wait(max(0, due - time.monotonic())):
            now = time.monotonic()
            # The host cannot sleep for less than some 0.1 ms.
            words = 1 + int((now - due) * self._rate)
            if self._fifo.unread() < 8 * 4096:
                self._fifo.write(source_bytes(count, count + words))
                count += words
            due += words / self._rate


class SlowDaemon(EgdDaemon):
    """A daemon that gives 8 bytes each `pause` seconds."""

    pause = 0.001

    def _give(self, connection, size):
        for first in range(0, size, 8):
            time.sleep(self.pause)
            if not super()._give(connection, min(8, size - first)):
                return False
        return True


@pytest.fixture
def share(guest):
    """
    A function that checks that vCPUs get the same number of words from a slow
    source, within 10 %, once each has 20.

    Words come in bursts if the host is busy, so it may need more than one try.
    Rates are so low that a burst of 50 ms has a word for each of 32 vCPUs at
    most: if it had hundreds, the first vCPU to run again would get most.
    """
    def function(thread, cpus, backend, *args, **kwargs):
        vm = guest(backend, *args, accel=f'tcg,thread={thread}', cpus=cpus,
                   timeout=1000 * HANG, **kwargs)
        vm.call(FOR_EVER)

        def counts():
            return [vm.get(cpu, COUNT) for cpu in range(cpus)]

        def unevenness():
            before = counts()
            until(lambda: sum(counts()) - sum(before) >= 20 * cpus)
            got = [now - then for now, then in zip(counts(), before)]
            mean = sum(got) / cpus
            return max(abs(words - mean) for words in got) / mean

        until(lambda: all(counts()))
        # Without fair turns, one of some hundred tries is even by chance.
        until(lambda: all(unevenness() <= 0.1 for _ in range(3)))
        vm.quit()
    return function


@THREADS
@pytest.mark.parametrize('cpus, rate', [(4, 20), (8, 100), (32, 500)])
def test_fifo(share, fifo, thread, cpus, rate):
    with Feeder(fifo, rate):
        share(thread, cpus, fifo.backend)


@pytest.mark.parametrize('thread, cpus, words', [
    ('multi', 4, 20), ('multi', 8, 500), ('multi', 32, 500),
    ('single', 8, 500), ('single', 32, 500)])
def test_quota(share, thread, cpus, words):
    share(thread, cpus, URANDOM, max_bytes=8 * words, period=1000)


def test_time_slice(share):
    """
    The vCPU that runs does not take all words of its time slice.

    With -icount, the guest's time does not pass while the host is busy.
    """
    share('single', 32, URANDOM, icount='shift=7', max_bytes=80000, period=1000)


@THREADS
def test_egd(share, tmp_path, thread):
    daemon = SlowDaemon(tmp_path / 'egd')
    with contextlib.closing(daemon):
        daemon.start()
        share(thread, 8, *daemon.backend())


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
        words = vm.count() + 20 * cpus
        until(lambda: vm.count() >= words)
        return statistic(vm, 'timeouts') == before

    with Feeder(fifo, rate):
        vm = guest(fifo.backend, accel=f'tcg,thread={thread}', cpus=cpus,
                   timeout=timeout)
        vm.call(FOR_EVER)
        until(lambda: statistic(vm, 'bytes') >= 8 * 2 * cpus)
        until(no_call_fails)
    vm.quit()


@pytest.mark.parametrize('thread, cpus, share', [
    ('multi', 16, 0.7), ('multi', 32, 0.7),
    ('single', 16, 0.5), ('single', 32, 0.5)])
def test_fast_source(guest, thread, cpus, share):
    """
    Many vCPUs get about as many words of a fast source as four.

    If vCPUs got words strictly in turn, each turn would take as long as to
    wake a vCPU, and 16 would get a twentieth.
    """
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
    vm.quit()


def test_wake_up(guest):
    """
    With one thread, a vCPU that is woken tries at once.

    If it waited until another vCPU of its thread had slept, each of the 8000
    words would take 20 ms.
    """
    vm = guest(URANDOM, accel='tcg,thread=single', cpus=16, timeout=0,
               pool_size=8)
    vm.call(500)
    vm.finish()
    for cpu in range(16):
        assert {status for status, _ in vm.results(cpu)} == {H_SUCCESS}
