# SPDX-License-Identifier: GPL-2.0-or-later
"""Health tests: the guest gets no bytes of a source that is not random."""

import itertools
import math
import random
import re
import threading
import time
from fractions import Fraction

import pytest

from test_replay import run
from test_waiting import ways
from testlib import TOP, good_words
from testlib.bare_metal import source_bytes, word
from testlib.egd import EgdDaemon
from testlib.hcalls import H_HARDWARE
from testlib.limits import HANG, until
from testlib.machine import URANDOM, add_disk, hmp, statistic

WINDOW, CUTOFF = 512, 27
THROWN_AWAY = 'all bytes are thrown away until 512 words are good'
TWICE = 'the same word came twice in a row'
WELL = "'rng0' gives random data again"


def stuck(bit):
    """Words in which one bit is always 1, and all other bits are random."""
    rng = random.Random(bit)
    return [rng.getrandbits(64) | 1 << bit for _ in range(4096)]


def words_of(data):
    return [int.from_bytes(data[i:i + 8], 'big')
            for i in range(0, len(data) - 7, 8)]


def bytes_of(words):
    return b''.join(word.to_bytes(8, 'big') for word in words)


BAD = {
    'zeros': [0],
    'constant': [word(7)],
    'two-words': [word(7), word(8)],
    'text': words_of((TOP / 'COPYING').read_bytes()[2000:16000]),
    'stuck-bit-3': stuck(3),
    'stuck-bit-40': stuck(40),
}


def verdict(words):
    """
    A model of the health tests, for a source that repeats these words.

    Returns the most words that the tests may accept before they fail, and the
    expected message as a regular expression.
    """
    source = itertools.cycle(words)
    last = count = 0
    while True:
        window = []
        for value in itertools.islice(source, WINDOW):
            window.append(value)
            ends = [value & 0xff for value in window]
            if value == last:
                return count, TWICE
            if ends.count(ends[0]) >= CUTOFF:
                return count, \
                    rf'\d+ of \d+ words end in 0x{ends[0]:02x}'
            last = value
            count += 1
        for bit in range(64):
            if len({value >> bit & 1 for value in window}) == 1:
                return count - 1, f'bit {bit} was the same in 512 words'


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
            self._ahead += bytes_of(
                [word(next(self._good)) if self._healed else next(self._bad)])
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data


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
    """Wait until a health test has failed; then no call may get a word."""
    until(lambda: THROWN_AWAY in vm.log())
    count = vm.count()
    assert vm.calls_wait() and vm.count() == count


def bad_reads(vm):
    """How many reads of bad bytes the trace event has counted."""
    return vm.log().count('\nspapr_rng_bad ')


def reads_now_and_then(vm):
    """Check that the device reads a bad source again, but not too often."""
    start, before = time.monotonic(), bad_reads(vm)
    until(lambda: bad_reads(vm) > before + 20)
    # Up to 50 reads a second are normal. On a busy host, there are fewer.
    assert bad_reads(vm) - before < 150 * (time.monotonic() - start)


def check_message(message, what):
    assert re.fullmatch(f"rng-[a-z]+ 'rng0': {what}; {THROWN_AWAY}", message)


def check_recovery(vm, first):
    """Check that all words after the first `first` words are good.

    They are consecutive words of the source. Returns the number of the first
    one.
    """
    values = sorted(value for cpu in range(vm.cpus)
                    for value in vm.values(cpu)[first:])
    number = {word(i): i for i in range(20000)}
    numbers = sorted(number[value] for value in values)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    return numbers[0]


@pytest.mark.parametrize('kind, how', [
    *itertools.product(BAD, ['fifo', 'egd']), ('zeros', 'fifo-bytes'),
    ('text', 'egd-bytes'), ('stuck-bit-40', 'fifo-small')])
def test_bad_source(start, kind, how):
    """
    The guest gets words until a test fails, and then only good words.

    With a small pool, the last words of a window often come together with the
    first words of the next window.
    """
    stream = Stream(BAD[kind])
    most, what = verdict(BAD[kind])
    pool = {'pool_size': 64} if how.endswith('small') else {}
    vm = start(how, stream, '-trace', 'spapr_rng_bad', **pool)
    vm.call(1500)
    until_failed(vm)
    given = vm.values()
    assert given == list(itertools.islice(itertools.cycle(BAD[kind]),
                                          len(given)))
    assert len(given) <= most
    reads_now_and_then(vm)
    message, = vm.reports()
    check_message(message, what)

    stream.heal()
    vm.finish()
    assert vm.values()[:len(given)] == given
    begin = check_recovery(vm, len(given))
    if kind in ('zeros', 'constant'):
        # No window with one of these words is good. The device also throws away
        # the words that it reads together with the last bad word, and with the
        # last word of the good window.
        assert WINDOW <= begin < 3 * WINDOW
    assert vm.reports()[1].endswith(WELL) and len(vm.reports()) == 2


def test_dev_zero(guest):
    """The guest gets no word: calls time out, and the user gets a message."""
    vm = guest('rng-random,filename=/dev/zero', '-trace', 'spapr_rng_bad',
               timeout=300)
    vm.call()
    vm.finish()
    assert vm.seconds() >= 0.3
    vm.call(1000)
    vm.finish()
    assert [status for status, _ in vm.results()] == [H_HARDWARE] * 1001
    assert statistic(vm, 'waits') < 5 and statistic(vm, 'bytes') == 0
    assert vm.log().count(THROWN_AWAY) == 1
    assert f"rng-random 'rng0': {TWICE}; {THROWN_AWAY}" in vm.reports()
    # Calls that fail at once do not make the device read more.
    vm.call(10 ** 9, record=False)
    reads_now_and_then(vm)
    vm.quit()


def test_off(guest):
    """With health-test=off, the guest gets all words."""
    vm = guest('rng-random,filename=/dev/zero', timeout=0,
               health_test='off')
    vm.call(3000)
    vm.finish()
    assert vm.values() == [0] * 3000 and vm.log() == ''


def ending_in(byte, places, length):
    """Good words of which exactly those at `places` end in `byte`."""
    words = [word(i) for i in range(length)]
    return [value & ~0xff | (byte if i in places else
                             (value & 0xff) + (value & 0xff == byte))
            for i, value in enumerate(words)]


def same_bit(bit, length, total):
    """Good words, except that a bit is 0 in the first `length` words."""
    words = [word(i) & ~(1 << bit) for i in range(length)] + [word(length)
                                                               | 1 << bit]
    return words + [word(i) for i in range(length + 1, total)]


# Words, and how many of them the guest gets; None: no test fails
EXACT = {
    'zero-first': ([0], 0),
    'zero-later': ([word(0), 0, word(1)], None),
    'twice': ([*map(word, range(100)), word(99)], 100),
    'twice-but-one': ([*map(word, range(100)), word(98)], None),
    'twice-over-windows': ([*map(word, range(512)), word(511)], 512),
    'byte-27': (ending_in(0x5a, {*range(0, 512, 19)}, 495), 494),
    'byte-26': (ending_in(0x5a, {*range(0, 26 * 19, 19)}, 512), None),
    'byte-27-over-windows': (
        ending_in(0x5a, {*range(486, 538)} - {511}, 600), None),
    'byte-27-in-second': (
        ending_in(0x5a, {512, *range(986, 1024)}, 1012), 1011),
    'stuck-512': (same_bit(63, 512, 512)[:512], 511),
    'stuck-511': (same_bit(63, 511, 1100), None),
}


@pytest.mark.parametrize('name', EXACT)
def test_exactly(guest, fifo, name):
    """Exactly which word fails a test, and which word comes after recovery."""
    words, most = EXACT[name]
    vm = guest(fifo.backend, timeout=0, pool_size=8)
    vm.call(len(words) if most is None else most + 100)
    fifo.write(bytes_of(words))
    if most is None:
        vm.finish()
        assert vm.values() == words and vm.log() == ''
        return

    until_failed(vm)
    assert vm.values() == words[:most] and fifo.unread() == 0
    # A window whose last word is bad does not count.
    fifo.write(source_bytes(0, 511) + bytes_of([word(510)]))
    until(lambda: fifo.unread() == 0)
    fifo.write(source_bytes(1000, 1512))
    until(lambda: WELL in vm.log())
    assert vm.count() == most
    fifo.write(source_bytes(1512, 1612))
    vm.finish()
    assert vm.values() == words[:most] + [*map(word, range(1512, 1612))]
    assert len(vm.reports()) == 2


@ways('multi', 'single', 'icount', 'icount-4')
def test_ways(start, way):
    stream = Stream([0])
    vm = start('fifo', stream, **way)
    vm.call(300)
    until_failed(vm)
    stream.heal()
    vm.finish()
    check_recovery(vm, 0)
    assert len(vm.reports()) == 2


def test_machine_commands(start, tmp_path):
    """
    A source that has failed stays failed over commands to the machine.

    If a command resets the tests, they have no previous word to compare with,
    so that the first word of a constant source seems good.
    """
    stream = Stream([word(7)])
    vm = start('fifo', stream, '-trace', 'spapr_rng_bad')
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm idle')

    def reset():
        vm.reset()

    for command, given in [
            (lambda: None, 1), (lambda: vm.qemu.cmd('stop'), 1),
            (lambda: vm.qemu.cmd('cont'), 1), (reset, 1),
            (lambda: hmp(vm.qemu, 'loadvm idle'), 0)]:
        command()
        if vm.done(0):
            vm.call(300)
        if vm.qemu.cmd('query-status')['status'] == 'running':
            until_failed(vm)
            reads_now_and_then(vm)
        assert vm.count() == given
    stream.heal()
    vm.finish()
    check_recovery(vm, 0)
    assert len(vm.reports()) == 2
    vm.quit()


def test_nobody_calls(start):
    """A failed source is read without a call, to notice when it is good."""
    stream = Stream([0])
    vm = start('fifo', stream, timeout=300)
    vm.call()
    vm.finish()
    assert [status for status, _ in vm.results()] == [H_HARDWARE]
    stream.heal()
    until(lambda: WELL in vm.log())
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
        check_message(vm.reports()[0], TWICE)


@pytest.mark.parametrize('backend', [URANDOM, 'rng-builtin'])
def test_good_source(guest, backend):
    """Good words raise no false alarm."""
    vm = guest(backend, timeout=0)
    vm.call(10 ** 6, record=False)
    vm.finish()
    assert statistic(vm, 'bytes') == 8 * 10 ** 6 and vm.log() == ''


@pytest.mark.parametrize('source, alarm', [
    ('/dev/urandom', ''), ('/dev/zero', TWICE + '\n')])
def test_many_words(tmp_path, source, alarm):
    """The health tests without QEMU, on 10^7 words; bench/soak.py has 10^9."""
    done = good_words.test(10 ** 7, source, tmp_path)
    assert (done.returncode, done.stderr) == (bool(alarm), alarm)


def log2(fraction):
    return math.log2(fraction.numerator) - math.log2(fraction.denominator)


def test_cutoffs(tree):
    """The cutoffs are the least with at most one false alarm in 2^64 words."""
    header = (tree / 'include/hw/ppc/spapr_rng_health.h').read_text()
    window, cutoff = (
        int(re.search(rf'#define SPAPR_RNG_HEALTH_{name} (\d+)\n',
                      header).group(1)) for name in ('WINDOW', 'CUTOFF'))
    assert (window, cutoff) == (WINDOW, CUTOFF)

    def tail(least):
        """
        The probability that `least` or more of the other words of a window end
        in the byte of the first word.
        """
        others = window - 1
        return Fraction(sum(math.comb(others, k) * 255 ** (others - k)
                            for k in range(least, others + 1)), 256 ** others)

    limit = Fraction(1, 2 ** 64)
    assert tail(cutoff - 1) <= limit < tail(cutoff - 2)
    assert Fraction(64 * 2, 2 ** window) <= limit
    # The comment in the device's source has the same numbers.
    text = (tree / 'hw/ppc/spapr_rng_health.c').read_text()
    for least in (cutoff - 1, cutoff - 2):
        assert f'{least} or more' in text
        assert f'2^{log2(tail(least)):.1f}' in text
