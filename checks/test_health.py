# SPDX-License-Identifier: GPL-2.0-or-later
"""Health tests: the guest gets no bytes of a source that is not random.

QEMU's test-spapr-rng-health tests which words are good.
"""

import functools
import itertools
import random
import threading
import time

import pytest

from testlib import TOP
from testlib.accels import ACCELS
from testlib.bare_metal import source_bytes, word
from testlib.egd import EgdDaemon
from testlib.hcalls import H_HARDWARE
from testlib.limits import HANG, until
from testlib.machine import add_disk, hmp, statistic
from testlib.replay import run

STARTUP, WINDOW = 72, 512
THROWN_AWAY = 'all bytes are thrown away until 512 words are good'
TWICE = 'a word equals the one 1 before'
GOOD = "'rng0' gives random data again"


def biased():
    """Bits that are 1 with a probability of 0.9, as words."""
    rng = random.Random(1)
    return [sum((rng.random() < 0.9) << bit for bit in range(64))
            for _ in range(512)]


def words_of(data):
    return [int.from_bytes(data[i:i + 8], 'big')
            for i in range(0, len(data) - 7, 8)]


BAD = {
    'zeros': [0],
    'text': words_of((TOP / 'COPYING').read_bytes()[2000:16000]),
    'biased': biased(),
}


class Stream:
    """An endless source: it repeats bad words; after heal(), words are good."""

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
def feed(fifo):
    """A function that copies a stream to the FIFO from now on."""
    end = threading.Event()
    threads = []

    def fill(stream, piece):
        while not end.wait(0.002):
            while fifo.unread() < 16384 and not end.is_set():
                fifo.write(stream.read(piece))

    def start(stream, piece=4096):
        threads.append(threading.Thread(target=fill, args=(stream, piece)))
        threads[0].start()

    yield start
    end.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def start(guest, fifo, feed, tmp_path):
    """A function that starts a guest whose source is a stream.

    how: fifo or egd; with -bytes, bytes come one by one
    """
    daemons = []

    def make(how, stream, *args, timeout=0, **kwargs):
        if how.startswith('fifo'):
            feed(stream, 1 if how.endswith('bytes') else 4096)
            return guest(fifo.backend, *args, timeout=timeout, **kwargs)
        daemons.append(EgdDaemon(tmp_path / 'egd'))
        daemons[0].random = stream.read
        daemons[0].single_bytes = how.endswith('bytes')
        daemons[0].start()
        return guest(*daemons[0].backend('reconnect-ms=0'), *args,
                     timeout=timeout, **kwargs)

    yield make
    for daemon in daemons:
        daemon.stop()


def until_failed(vm):
    """Wait until a health test has failed; no call may get a word."""
    until(lambda: THROWN_AWAY in vm.log())
    assert vm.calls_wait() and vm.count() == 0


def bad_reads(vm):
    """How many reads of bad bytes the trace event has counted."""
    return vm.log().count('\nspapr_rng_bad ')


def check_recovery(vm):
    """The guest gets consecutive words; returns the number of the first."""
    values = [value for cpu in range(vm.cpus) for value in vm.values(cpu)]
    number = {word(i): i for i in range(20000)}
    numbers = sorted(number[value] for value in values)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert len(vm.reports()) == 2 and vm.reports()[1].endswith(GOOD)
    return numbers[0]


@pytest.mark.parametrize('pool_size', [8, 4096])
@pytest.mark.parametrize('piece', [8, 20, 576])
def test_start(guest, fifo, pool_size, piece):
    """The guest gets the first word when 72 have come, and then all of them."""
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
    assert statistic(vm, 'bytes') == 800


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


@pytest.mark.parametrize('kind, how', [
    *itertools.product(BAD, ['fifo', 'egd']), ('zeros', 'fifo-bytes'),
    ('text', 'egd-bytes')])
def test_bad_source(start, kind, how):
    """The guest gets no word, until the source has been good for long."""
    stream = Stream(BAD[kind])
    vm = start(how, stream, '-trace', 'spapr_rng_bad')
    vm.call(1500)
    until_failed(vm)
    until(lambda: bad_reads(vm) > 1)
    assert vm.count() == 0
    stream.heal()
    vm.finish()
    assert check_recovery(vm) >= WINDOW / 2


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
        until(lambda n=windows: vm.log().count('spapr_rng_bad ') == n)
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
def test_left_alone(start, fifo, stopped):
    """QEMU takes little of a source that has failed."""
    taken = 0

    class Counted(Stream):
        """Counts the bytes that are written to the FIFO."""

        def read(self, size):
            nonlocal taken
            taken += size
            return super().read(size)

    vm = start('fifo', Counted([0]), '-trace', 'spapr_rng_bad')
    vm.call()
    until_failed(vm)
    if stopped:
        vm.qemu.cmd('stop')
    before, reads = taken - fifo.unread(), bad_reads(vm)
    time.sleep(10)
    assert taken - fifo.unread() - before <= 65536
    assert bad_reads(vm) - reads <= (1 if stopped else 10)
    vm.quit()


def test_dev_zero(guest):
    """The guest gets no word: calls time out, and the user gets a message."""
    vm = guest('rng-random,filename=/dev/zero', timeout=300)
    vm.call()
    vm.finish()
    assert vm.seconds() >= 0.3
    vm.call(1000)
    vm.finish()
    assert [status for status, _ in vm.results()] == [H_HARDWARE] * 1001
    assert statistic(vm, 'waits') < 5 and statistic(vm, 'bytes') == 0
    assert vm.log().count(THROWN_AWAY) == 1
    assert f"rng-random 'rng0': {TWICE}; {THROWN_AWAY}" in vm.reports()
    vm.quit()


def test_off(guest):
    """With health-test=off, the guest gets all words."""
    vm = guest('rng-random,filename=/dev/zero', timeout=0,
               health_test='off')
    vm.call(3000)
    vm.finish()
    assert vm.values() == [0] * 3000 and vm.log() == ''


def test_icount(start):
    stream = Stream([0])
    vm = start('fifo', stream, **ACCELS['icount'])
    vm.call(300)
    until_failed(vm)
    stream.heal()
    vm.finish()
    check_recovery(vm)


def test_machine_commands(start, tmp_path):
    """A source that has failed stays failed over commands to the machine."""
    stream = Stream([word(7)])
    vm = start('fifo', stream)
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
    """A failed source is read without a call, to notice when it is good."""
    stream = Stream([0])
    vm = start('fifo', stream, timeout=300)
    vm.call()
    vm.finish()
    assert [status for status, _ in vm.results()] == [H_HARDWARE]
    stream.heal()
    until(lambda: GOOD in vm.log())
    assert statistic(vm, 'calls') == 1
    vm.quit()


def test_replay(guest, feed, fifo, tmp_path):
    """The source was bad when it was recorded, and then became good."""
    stream = Stream([0])
    feed(stream)
    healer = threading.Timer(1, stream.heal)
    healer.start()
    recorded = run(guest, 'record', tmp_path / 'log', fifo.backend)
    healer.join()
    assert len(set(recorded[0])) == 2000 and 0 not in recorded[0]
    assert run(guest, 'replay', tmp_path / 'log', fifo.backend) == recorded


def test_replay_without_an_end(guest, tmp_path):
    """If the source stays bad, the replay ends where the recording ended."""
    for mode in 'record', 'replay':
        vm = guest('rng-random,filename=/dev/zero', '-icount',
                   f'shift=auto,rr={mode},rrfile={tmp_path / "log"}', '-S')
        vm.call()
        vm.qemu.cmd('cont')
        if mode == 'record':
            until_failed(vm)
            vm.quit()
        else:
            vm.qemu.wait(timeout=HANG)
            assert vm.qemu.exitcode() == 0
        assert vm.count() == 0
        assert vm.reports() == [f"rng-random 'rng0': {TWICE}; {THROWN_AWAY}"]
