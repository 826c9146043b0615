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
    """An endless source of bad words, and of good ones after heal()."""

    def __init__(self, bad):
        self._bad = itertools.cycle(bad)
        self._good = itertools.count()
        self._healed = False
        self._ahead = b''

    def heal(self):
        self._healed = True

    def read(self, size):
        """The next bytes. heal() takes effect at the end of a word.

        Only one thread may call this.
        """
        while len(self._ahead) < size:
            value = word(next(self._good)) if self._healed else next(self._bad)
            self._ahead += value.to_bytes(8, 'big')
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data


@pytest.fixture
def guest(guest):
    return functools.partial(guest, health_test='on')


@pytest.fixture
def start(guest, fifo, tmp_path):
    """A function that starts a guest whose source is a stream.

    how: fifo or egd; with -bytes, bytes come one by one
    """
    daemon = EgdDaemon(tmp_path / 'egd')
    stack = contextlib.ExitStack()

    def make(stream, *args, how='fifo', timeout=0, **kwargs):
        single = how.endswith('-bytes')
        if how.startswith('fifo'):
            size = 1 if single else 4096
            stack.enter_context(fifo.fed(iter(lambda: stream.read(size), b'')))
            return guest(fifo.backend, *args, timeout=timeout, **kwargs)
        daemon.random = stream.read
        daemon.single_bytes = single
        daemon.start()
        vm = guest(*daemon.backend(), *args, timeout=timeout, **kwargs)
        until_connected(vm)
        return vm

    with stack, contextlib.closing(daemon):
        yield make


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


@pytest.mark.parametrize('how, bad, way', [
    ('fifo', STUCK, {}), ('fifo', REPEATED, ACCELS['icount']),
    ('egd', REPEATED, {}), ('fifo-bytes', REPEATED, {}),
    ('egd-bytes', STUCK, {})],
    ids=['fifo', 'icount', 'egd', 'fifo-bytes', 'egd-bytes'])
def test_bad_source(start, how, bad, way):
    """The guest gets no word, until the source has been good for long."""
    stream = Stream(bad)
    vm = start(stream, '-trace', 'spapr_rng_bad', how=how, **way)
    vm.call(1500 // vm.cpus)
    until_failed(vm)
    until(lambda: bad_reads(vm) > 1)
    assert vm.count() == 0
    stream.heal()
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


def test_machine_commands(start, tmp_path):
    """A source that has failed stays failed over commands to the machine."""
    stream = Stream(REPEATED)
    vm = start(stream)
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm idle')
    for command in (lambda: vm.qemu.cmd('stop'), lambda: vm.qemu.cmd('cont'),
                    vm.reset, lambda: hmp(vm.qemu, 'loadvm idle')):
        command()
        if vm.done(0):
            vm.call(300)
        if vm.qemu.cmd('query-status')['status'] == 'running':
            until_failed(vm)
    stream.heal()
    vm.finish()
    check_recovery(vm)
    vm.quit()


def test_nobody_calls(start):
    """The first call waits for the timeout, and later ones fail at once.

    A failed source is read without a call, to notice when it is good.
    """
    stream = Stream(REPEATED)
    vm = start(stream, timeout=300)
    vm.call(1000)
    vm.finish()
    assert vm.seconds() >= 0.3
    assert {status for status, _ in vm.results()} == {H_HARDWARE}
    assert statistic(vm, 'waits') < 5 and statistic(vm, 'bytes') == 0
    assert "rng-random 'rng0': a word equals the one 1 before; " \
        f'{THROWN_AWAY}' in vm.reports()
    stream.heal()
    until(lambda: GOOD in vm.log())
    assert statistic(vm, 'calls') == 1000
    vm.quit()
