# SPDX-License-Identifier: GPL-2.0-or-later
"""Random calls, stops, resets, migrations, and faults of the source.

A state machine of Hypothesis drives a QEMU with sanitizers. Each word that the
guest gets must be one of its source, in order, and no other call may get it.
Only the steps that may lose bytes lose some, and no more than they may. When
all faults are over, each call is answered. Hypothesis shrinks what it finds to
a few steps, and prints them.
"""

import errno
import functools
import itertools
import os
import shutil
import socket
import sys
import tempfile
import termios
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis.stateful import (RuleBasedStateMachine, initialize,
                                 precondition, rule,
                                 run_state_machine_as_test)
from hypothesis.strategies import booleans, integers, one_of, sampled_from

from testlib import OUT, bare_metal, slow_source
from testlib.bare_metal import source_bytes
from testlib.fifo import Fifo, ioctl_int
from testlib.hcalls import COUNT, DAMAGE, H_HARDWARE, H_SUCCESS, INTERRUPTS
from testlib.limits import HANG, until
from testlib.machine import set_property

ASAN = OUT / 'asan'
SECONDS = int(os.environ.get('FUZZ_SECONDS', 120))
EXAMPLES = 20   # of each seed
STEPS = 30      # of each example
SAVES = 2       # of them, since saving takes long

POOL = 16384    # bytes, if a machine of MACHINES has no pool_size

# While Hypothesis shrinks a fault, a call hangs after as many seconds: HANG is
# too long to wait for each example.
PATIENCE_TO_SHRINK = 10

# vCPUs, whether the source is an EGD daemon, and options of bare_metal.Guest
MACHINES = {
    'fifo': (3, False, {'timeout': 0, 'health_test': 'off'}),
    'egd': (3, True, {'timeout': 0, 'health_test': 'off'}),
    'tested': (2, False, {'timeout': 0}),
    'pool_8': (1, False, {'timeout': 30, 'health_test': 'off',
                          'pool_size': 8}),
    'egd_1': (1, True, {'timeout': 40}),
    'single': (3, False, {'timeout': 50, 'health_test': 'off',
                          'pool_size': 27, 'accel': 'tcg,thread=single'}),
    'quota': (2, False, {'timeout': 0, 'health_test': 'off',
                         'max_bytes': 80000, 'period': 1000}),
    'icount': (2, True, {'timeout': 0, 'icount': 'shift=auto'}),
}


class Source:
    """What a source gave, and which of its bytes the guest got."""

    _first = itertools.count(0, 1 << 20)    # No word comes from two sources.

    def __init__(self, directory):
        directory.mkdir()
        self._word = next(self._first)
        self.given = bytearray()
        self._got = bytearray()     # 1 for each byte that the guest got
        self.last = Counter()       # where the last word of each vCPU ended
        self.may_lose = 0           # bytes
        self.seams = 0              # words in which bytes may be missing

    def ahead(self, size):
        """The next bytes of the source."""
        at = len(self.given)
        data = source_bytes(self._word + at // 8,
                            self._word + (at + size) // 8 + 1)
        return data[at % 8:at % 8 + size]

    def take(self, cpu, at):
        """A vCPU got the word at an offset."""
        self._got.extend(bytes(len(self.given) - len(self._got)))
        assert not any(self._got[at:at + 8]), f'byte {at} came twice'
        assert at >= self.last[cpu], f'byte {at} came after {self.last[cpu]}'
        self._got[at:at + 8] = b'\1' * 8
        self.last[cpu] = at + 8

    def check_losses(self):
        lost = self._got.rfind(1) + 1 - self._got.count(1)
        assert lost <= self.may_lose, f'{lost} bytes were lost'


class FifoSource(Source, Fifo):
    def __init__(self, directory):
        Source.__init__(self, directory)
        Fifo.__init__(self, directory)
        self.inode = self.path.stat().st_ino
        self.options = {'qom-type': 'rng-random', 'filename': str(self.path)}

    def feed(self, size, data=None):
        self.open()
        # The FIFO has 16 pages; a write may leave half of one unused.
        if self.unread() < 1 << 14:
            data = data or self.ahead(size)
            self.given += data
            self.write(data)

    def serve(self):
        pass


class EgdSource(Source):
    """A daemon that answers requests as far as it was fed.

    It runs in the thread of the test, so the same steps have the same effect.
    """

    inode = 0

    def __init__(self, directory):
        super().__init__(directory)
        self._path = directory / 'egd'
        self.options = {'qom-type': 'rng-egd', 'chardev': 'egd'}
        self.chardev = {'type': 'socket', 'data': {
            'server': False, 'reconnect-ms': 10,
            'addr': {'type': 'unix', 'data': {'path': str(self._path)}}}}
        self._listener = None
        self._owed = {}     # bytes, for each connection
        self._credit = 0

    def feed(self, size):
        self._credit += size

    def unread(self):
        return self._credit

    def open(self):
        if not self._listener:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._path))
            self._listener.listen()
            self._listener.setblocking(False)

    def hang_up(self):
        for connection in self._owed:
            # QEMU may have the first bytes of a word, but not the next ones.
            self.may_lose += ioctl_int(connection, termios.TIOCOUTQ) + 8
            self.seams += 1
            connection.close()
        self._owed.clear()

    def close(self):
        self.hang_up()
        if self._listener:
            self._listener.close()
            self._path.unlink()
        self._listener = None

    def serve(self):
        try:
            while self._listener:
                self._owed[self._listener.accept()[0]] = 0
        except BlockingIOError:
            pass
        for connection in list(self._owed):
            try:
                self._serve(connection)
            except OSError:     # QEMU has closed the connection.
                del self._owed[connection]

    def _serve(self, connection):
        try:
            while True:
                request = connection.recv(2, socket.MSG_DONTWAIT)
                if not request:
                    raise OSError
                assert request[0] == 2
                self._owed[connection] += request[1]
        except BlockingIOError:
            pass
        data = self.ahead(min(self._owed[connection], self._credit))
        sent = connection.send(data) if data else 0
        self.given += data[:sent]
        self._owed[connection] -= sent
        self._credit -= sent


class Found(Exception):
    """An example found a fault."""


def step(**arguments):
    """A rule whose steps are noted and checked."""
    def decorate(function):
        @functools.wraps(function)
        def run(self, **values):
            if not self.error:
                self.trace.append(f'{function.__name__}({values})')
            self.saves += function.__name__ in ('save', 'move')
            self.guarded(function, **values)
            self.guarded(HRandom.check)
        return rule(**arguments)(run)
    return decorate


class HRandom(RuleBasedStateMachine):
    """An example, which begins with a reset and with new sources.

    Source 0 may fail; source 1, a FIFO, may replace it. The test makes a
    subclass for each of MACHINES, which keeps its guest for all examples.
    """

    guest = None
    found = False

    def __init__(self):
        super().__init__()
        self.trace = []
        self.error = None
        self.sources = []
        self.current = 0        # which source the device uses
        self.added = set()      # which sources have a backend
        self.called = 0
        self.seen = Counter()   # results of each vCPU
        self.results = Counter()
        self.saves = 0
        self.restarts = 0       # resets and migrations
        self.frozen = None      # the results of a guest that is stopped
        self.old = 0            # words that may come from earlier sources
        self.guarded(HRandom.begin)

    def begin(self):
        cls = type(self)
        self.directory = Path(tempfile.mkdtemp(dir=cls.work))
        self.sources = [
            (EgdSource if self.egd else FifoSource)(self.directory / 'a'),
            FifoSource(self.directory / 'b')]
        if not cls.guest:
            self.start()
        for cpu in range(self.cpus):
            self.guest.set(cpu, COUNT, 0)
            # Interrupts wake a vCPU that waits: only some should.
            self.guest.set(cpu, INTERRUPTS, cpu == 0)
        self.end_faults()
        self.use(0)
        self.guest.reset()

    def start(self, *args, **options):
        cls = type(self)
        cls.control, wrapper = slow_source.preload(
            self.library, self.work, self.work / 'control', [])
        cls.guest = self.make(*args, wrapper=wrapper, **options)
        if self.egd:
            self.guest.chardev = None

    def guarded(self, function, **values):
        """Call a function unless one has failed; if it fails, show why.

        The steps that remain do nothing. So Hypothesis sees all examples end
        at the same place, wherever timing makes a fault show.
        """
        if self.error:
            return
        try:
            function(self, **values)
        except Exception as error:
            self.error = error
            show = note if self.found else print
            show(f'After {time.monotonic() - self.began:.0f} s, the steps: ' +
                 ' '.join(self.trace))
            show(''.join(traceback.format_exception(error)[-3:]))
            if self.guest:
                show('QEMU said: ' + self.guest.log()[-2000:])
            type(self).found = True
            self.end_guest()

    @classmethod
    def end_guest(cls):
        if cls.guest:
            cls.guest.qemu.shutdown(hard=True)
            cls.guest = None

    def use(self, which):
        """Make the device use a source; add its backend if there is none."""
        cmd, source = self.guest.qemu.cmd, self.sources[which]
        if which not in self.added:
            if hasattr(source, 'chardev') and source != self.guest.chardev:
                cmd('chardev-add', id='egd', backend=source.chardev)
                self.guest.chardev = source
            cmd('object-add', **source.options, id=f'backend{which}')
        self.added.add(which)
        self.current = which
        set_property(self.guest, 'rng', f'backend{which}')

    def take(self, cpu, word):
        for source in self.sources:
            at = source.given.find(word)
            if at >= 0:
                source.take(cpu, at)
                return
        self.sources[0].seams -= 1
        assert self.sources[0].seams >= 0, 'a word is of no source'

    def check(self):
        """Check the new results."""
        for source in self.sources:
            source.serve()
        for cpu in range(self.cpus):
            new = self.guest.results(cpu)[self.seen[cpu]:]
            self.seen[cpu] += len(new)
            for status, value in new:
                self.results[status] += 1
                if status == H_SUCCESS:
                    self.take(cpu, value.to_bytes(8, 'big'))
            assert not self.guest.get(cpu, DAMAGE), 'r5 to r12 were changed'
        assert self.results.keys() <= {
            H_SUCCESS, H_HARDWARE if self.times_out else H_SUCCESS}
        assert self.frozen in (None, self.results.total()), \
            'a stopped guest ran'

    def make_calls(self, cpu, calls):
        """New calls get words that come after those which any vCPU has."""
        if self.guest.done(cpu):
            self.check()
            for source in self.sources:
                source.last[cpu] = max(source.last.values(), default=0)
            self.called += calls
            self.guest.set(cpu, COUNT, 0)   # The guest has a ring of results.
            self.seen[cpu] = 0
            self.guest.call(calls, cpus=[cpu])

    def swap_twice(self):
        """The words that were read ahead stay."""
        self.sources[0].feed(1000)
        self.make_calls(0, 5)
        until(lambda: self.check() or self.guest.done(0))
        self.swap_sources()
        self.swap_sources()

    @initialize(lossy=booleans(), swap=booleans())
    def choose(self, lossy, swap):
        """Half of the examples have no steps that may lose many bytes."""
        self.lossy = lossy
        if swap:
            self.trace.append('swap_twice()')
            self.guarded(HRandom.swap_twice)

    @step(cpu=integers(0, 2), calls=integers(1, 12))
    def call(self, cpu, calls):
        self.make_calls(cpu % self.cpus, calls)

    @step(calls=sampled_from([1, 30, 500]))
    def call_all(self, calls):
        for cpu in range(self.cpus):
            self.make_calls(cpu, calls)

    @step(milliseconds=integers(1, 30))
    def wait(self, milliseconds):
        time.sleep(milliseconds / 1000)

    @step()
    def stop(self):
        self.guest.qemu.cmd('stop')
        self.check()
        self.frozen = self.results.total()

    def go_on(self):
        self.frozen = None
        self.guest.qemu.cmd('cont')

    cont = step()(go_on)

    def restart(self, may_lose):
        self.restarts += 1
        for source in self.sources:
            source.may_lose += may_lose

    @precondition(lambda self: self.lossy)
    @step()
    def reset(self):
        """The pool is lost, and words that a vCPU has not recorded yet."""
        self.guest.reset()
        self.restart(self.pool + 7 + 8 * self.cpus)

    @precondition(lambda self: self.saves < SAVES)
    @step()
    def save(self):
        self.guest.save(self.directory / 'state')
        self.go_on()

    @precondition(lambda self: self.saves < SAVES)
    @step()
    def move(self):
        self.go_on()
        self.guest.save(self.directory / 'state')
        self.guest.quit()
        self.restart(float('inf'))
        self.start('-incoming', 'defer', ram=self.guest.ram)
        self.control[slow_source.INODE] = self.sources[0].inode
        self.added.clear()
        self.use(self.current)
        self.guest.restore(self.directory / 'state')

    def swap_sources(self):
        """Part of a word is lost, and the 72 words of the first test.

        That test is over when the guest has more words than were in the pool.
        """
        self.sources[self.current].may_lose += 7 + (
            576 if self.tested and self.results[H_SUCCESS] <= self.old else 0)
        self.use(1 - self.current)
        self.check()
        self.old = self.results[H_SUCCESS] + POOL // 8 + self.cpus

    swap = step()(swap_sources)

    @precondition(lambda self: self.lossy)
    @step()
    def delete(self):
        """The backend in use must stay; the other may have read some bytes."""
        for which in self.added.copy():
            answer = self.guest.qemu.qmp('object-del', id=f'backend{which}')
            assert ('error' in answer) == (which == self.current), answer
            if which != self.current:
                self.added.remove(which)
                self.sources[which].may_lose = float('inf')

    @step(size=one_of(integers(1, 40), integers(41, 5000)))
    def feed(self, size):
        self.sources[0].feed(size)

    @step(size=integers(1, 2000))
    def feed_other(self, size):
        self.sources[1].feed(size)

    @precondition(lambda self: self.lossy and self.tested and not self.egd)
    @step(words=integers(2, 1300))
    def feed_bad(self, words):
        """Words that have their first byte in common."""
        source = self.sources[0]
        data = bytearray(source.ahead(8 * words))
        data[::8] = data[:1] * words
        source.may_lose = float('inf')
        source.feed(0, data)

    @step()
    def end(self):
        self.sources[0].close()

    @step()
    def fail(self):
        if self.egd:
            self.sources[0].hang_up()
        else:
            self.control[slow_source.ERROR] = errno.EIO

    @precondition(lambda self: not self.egd)
    @step()
    def hang(self):
        self.control[slow_source.ERROR] = -1

    @precondition(lambda self: not self.egd)
    @step(size=integers(1, 64), milliseconds=integers(1, 50), short=booleans())
    def slow(self, size, milliseconds, short):
        self.control[slow_source.SHORT_READS] = short
        self.control[slow_source.CHUNK_US] = 1000 * milliseconds
        self.control[slow_source.CHUNKS_MOST] = slow_source.FOR_EVER
        self.control[slow_source.CHUNK] = size

    def end_faults(self):
        self.control[slow_source.INODE] = self.sources[0].inode
        self.control[slow_source.ERROR] = self.control[slow_source.CHUNK] = 0
        self.sources[0].open()

    heal = step()(end_faults)

    def settle(self):
        """After all faults, calls are answered, and soon with new words."""
        words = None
        self.end_faults()
        self.go_on()
        if self.current:
            self.swap_sources()
        end = time.monotonic() + (PATIENCE_TO_SHRINK if self.found else HANG)
        while time.monotonic() < end:
            done = all(map(self.guest.done, range(self.cpus)))
            self.check()
            if done:
                if words is not None and self.results[H_SUCCESS] > words:
                    return
                words = self.results[H_SUCCESS]
                self.make_calls(0, POOL // 8 + 88)  # more than the pool has
            if self.sources[self.current].unread() < 64:
                self.sources[self.current].feed(4096)
            self.guest.qemu.cmd('query-status')
            time.sleep(0.001)
        assert False, 'a call is not answered'

    def check_sums(self):
        answered = self.results.total()
        assert self.called == answered or \
            self.restarts and self.called < answered
        for source in self.sources:
            source.check_losses()

    def clean_up(self):
        set_property(self.guest, 'rng', 'rng0')
        for which in self.added:
            self.guest.qemu.cmd('object-del', id=f'backend{which}')
        if self.egd:
            self.guest.qemu.cmd('chardev-remove', id='egd')

    def teardown(self):
        """The end of an example, which Hypothesis may have cut short."""
        type(self).examples += 1
        cut_short = sys.exc_info()[0]
        for function in (HRandom.settle, HRandom.check_sums,
                         HRandom.clean_up):
            self.guarded(function)
        for source in self.sources:
            source.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.error and not cut_short:
            # At one place: Hypothesis takes this for one fault.
            raise Found(f'{type(self.error).__name__}: {self.error}')


@pytest.mark.parametrize('name', MACHINES)
def test_fuzz(name, pseries, image, tmp_path, monkeypatch):
    """Random steps find nothing. All examples of a seed are tried."""
    # Other checks look for leaks, for which stacks are unwound slowly.
    monkeypatch.setenv('ASAN_OPTIONS', os.environ['ASAN_OPTIONS'].replace(
        '=1:fast_unwind_on_malloc=0', '=0'))
    cpus, egd, options = MACHINES[name]
    tested, began = 'health_test' not in options, time.monotonic()
    machine = type(name, (HRandom,), {
        'cpus': cpus, 'egd': egd, 'tested': tested, 'began': began,
        'examples': 0, 'times_out': options['timeout'] > 0,
        'pool': options.get('pool_size', POOL),
        'work': tmp_path, 'library': slow_source.build(tmp_path),
        'make': functools.partial(bare_metal.Guest, pseries, image, tmp_path,
                                  'rng-builtin', cpus=cpus, build=ASAN,
                                  **options)})
    how = settings(max_examples=EXAMPLES, stateful_step_count=STEPS,
                   deadline=None, database=None, report_multiple_bugs=False,
                   suppress_health_check=list(HealthCheck),
                   phases=[Phase.generate, Phase.shrink])
    number = int(os.environ.get('FUZZ_SEED', 0))
    while time.monotonic() < began + SECONDS / len(MACHINES):
        print(f'{name}: SEED={number}')
        steps = seed(number * len(MACHINES) + list(MACHINES).index(name))
        run_state_machine_as_test(steps(machine), settings=how)
        number += 1
    if machine.guest:
        machine.guest.quit()
    print(f'{name}: {machine.examples} examples, nothing found')
