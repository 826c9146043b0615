# SPDX-License-Identifier: GPL-2.0-or-later
"""Health tests: the guest gets no bytes of a source that is not random.

QEMU's test-spapr-rng-health tests which words are good.
"""

import contextlib
import functools
import itertools
import time

import pytest

from testlib.accels import ACCELS
from testlib.bare_metal import source_bytes, word
from testlib.egd import EgdDaemon, until_connected
from testlib.hcalls import H_HARDWARE
from testlib.limits import until
from testlib.machine import add_disk, hmp, statistic

STARTUP, WINDOW = 72, 512
THROWN_AWAY = 'all bytes are thrown away until 512 words are good'
GOOD = "'rng0' gives random data again"

# The first word that is the same as the one before fails, or the 72nd one.
REPEATED = [word(7)]
STUCK = [word(i) | 1 for i in range(WINDOW)]


class Stream:
    """An endless source of bad words, and of good ones once it is healed."""

    def __init__(self, bad):
        self.healed = False
        words = itertools.chain(
            itertools.takewhile(lambda _: not self.healed,
                                itertools.cycle(bad)),
            map(word, itertools.count()))
        self._bytes = itertools.chain.from_iterable(
            value.to_bytes(8, 'big') for value in words)

    def read(self, size):
        """The next bytes. Only one thread may call this."""
        return bytes(itertools.islice(self._bytes, size))

    def pieces(self, size):
        while True:
            yield self.read(size)


@pytest.fixture
def guest(guest):
    return functools.partial(guest, health_test='on')


def until_failed(vm):
    """Wait until a health test has failed; no call may get a word."""
    until(lambda: THROWN_AWAY in vm.log())
    assert vm.calls_wait() and vm.count() == 0


def bad_reads(vm):
    """How many reads of bad bytes the trace event has counted."""
    return vm.log().count('spapr_rng_bad ')


def check_recovery(vm):
    """The guest gets consecutive words, after many that were thrown away."""
    values = [value for cpu in range(vm.cpus) for value in vm.values(cpu)]
    number = {word(i): i for i in range(20000)}
    numbers = sorted(number[value] for value in values)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[0] >= WINDOW / 2
    assert len(vm.reports()) == 2 and vm.reports()[1].endswith(GOOD)


@pytest.mark.parametrize('pool_size, piece', [
    (8, 8), (8, 576), (4096, 20), (4096, 576)])
def test_start(guest, fifo, pool_size, piece):
    """The guest gets the first word when 72 have come, and then all."""
    vm = guest(fifo.backend, timeout=0, pool_size=pool_size)
    vm.call(100)
    data = source_bytes(0, STARTUP)
    for i in range(0, 571, piece):
        fifo.write(data[i:min(i + piece, 571)])
        until(lambda: fifo.unread() == 0)
    assert vm.calls_wait() and vm.count() == statistic(vm, 'bytes') == 0
    fifo.write(data[571:])
    until(lambda: vm.count() == STARTUP)
    fifo.write(source_bytes(STARTUP, 100))
    vm.finish()
    assert vm.values() == [word(i) for i in range(100)] and vm.log() == ''


def test_slow_start(guest, fifo):
    """Calls time out, but bytes are collected; a reset loses those so far."""
    vm = guest(fifo.backend, timeout=200)
    for i in range(0, STARTUP, 8):
        vm.call()
        vm.finish()
        assert vm.results()[-1][0] == H_HARDWARE
        fifo.write(source_bytes(i, i + 8))
        until(lambda: fifo.unread() == 0)
        if i == 32:
            time.sleep(0.1)     # QEMU's thread has read it; the device has it.
            vm.reset()
    fifo.write(source_bytes(STARTUP, 80))
    vm.call_until_success()
    assert vm.results()[-1][1] == word(40)


@pytest.mark.parametrize('bad, piece, way', [
    (STUCK, 4096, {}), (REPEATED, 4096, ACCELS['icount']), (REPEATED, 1, {})],
    ids=['stuck', 'icount', 'bytes'])
def test_bad_source(guest, fifo, tmp_path, bad, piece, way):
    """
    The guest gets no word until the source has been good for long.

    Commands to the machine do not change that.
    """
    stream = Stream(bad)
    with fifo.fed(stream.pieces(piece)):
        vm = guest(fifo.backend, '-trace', 'spapr_rng_bad', **way, timeout=0)
        add_disk(vm.qemu, tmp_path)
        hmp(vm.qemu, 'savevm idle')
        load = functools.partial(hmp, vm.qemu, 'loadvm idle')

        def pause():
            vm.qemu.cmd('stop')
            vm.qemu.cmd('cont')

        for command in load, pause, vm.reset, load:
            command()
            if vm.done(0):
                vm.call(1500 // vm.cpus)
            until_failed(vm)
        until(lambda: bad_reads(vm) > 1)
        assert vm.count() == 0
        stream.healed = True
        vm.finish()
    check_recovery(vm)


@pytest.mark.parametrize('bad, single_bytes', [
    (REPEATED, False), (STUCK, True)], ids=['repeated', 'bytes'])
def test_bad_daemon(guest, tmp_path, bad, single_bytes):
    """The same is true for the answers of a daemon."""
    stream = Stream(bad)
    with contextlib.closing(EgdDaemon(tmp_path / 'egd')) as daemon:
        daemon.random = stream.read
        daemon.single_bytes = single_bytes
        daemon.start()
        vm = guest(*daemon.backend(), timeout=0)
        until_connected(vm)
        vm.call(1500)
        until_failed(vm)
        stream.healed = True
        vm.finish()
    check_recovery(vm)


def test_recovery(guest, fifo):
    """After a failure, the guest gets the 72 words that follow 512 good ones.

    A source that fails again has to be good for twice as long.
    """
    vm = guest(fifo.backend, '-trace', 'spapr_rng_bad', timeout=0)
    vm.call(1000)
    for first, windows in (0, 1), (10000, 2):
        # At the start, one zero is a repeated one. Before the second failure,
        # the guest may get one.
        fifo.write(bytes(8 * windows))
        until(lambda n=windows: bad_reads(vm) == n)
        good = first + windows * WINDOW
        fifo.write(source_bytes(first, good + STARTUP - 1))
        until(lambda: fifo.unread() == 0)
        assert vm.calls_wait()
        before = vm.count()
        fifo.write(source_bytes(good + STARTUP - 1, good + STARTUP))
        until(lambda n=before: vm.count() == n + STARTUP)
        assert vm.values()[before:] == [
            word(i) for i in range(good, good + STARTUP)]


@pytest.mark.parametrize('stopped', [False, True])
def test_left_alone(guest, stopped):
    """QEMU reads a source that has failed once in a second, or not at all."""
    vm = guest('rng-random,filename=/dev/zero', '-trace', 'spapr_rng_bad',
               timeout=0)
    vm.call()
    until_failed(vm)
    if stopped:
        vm.qemu.cmd('stop')
    start, reads = time.monotonic(), bad_reads(vm)
    time.sleep(5)
    reads = bad_reads(vm) - reads
    assert reads <= 1 + (0 if stopped else time.monotonic() - start)
    vm.quit()


def test_nobody_calls(guest, fifo):
    """The first call waits for the timeout, and later ones fail at once.

    A failed source is read without a call, to notice when it is good.
    """
    stream = Stream(REPEATED)
    with fifo.fed(stream.pieces(4096)):
        vm = guest(fifo.backend, timeout=300)
        vm.call(1000)
        vm.finish()
        assert vm.seconds() >= 0.3
        assert {status for status, _ in vm.results()} == {H_HARDWARE}
        assert statistic(vm, 'waits') < 5 and statistic(vm, 'bytes') == 0
        assert "rng-random 'rng0': a word equals the one 1 before; " \
            f'{THROWN_AWAY}' in vm.reports()
        stream.healed = True
        until(lambda: GOOD in vm.log())
    assert statistic(vm, 'calls') == 1000
    vm.quit()
