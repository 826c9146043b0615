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
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (initialize, precondition,
                                 run_state_machine_as_test)
from hypothesis.strategies import booleans, integers, one_of, sampled_from

from testlib import OUT, bare_metal, slow_source
from testlib.hcalls import COUNT, DAMAGE, H_HARDWARE, H_SUCCESS, INTERRUPTS
from testlib.limits import HANG, until
from testlib.machine import set_property
from testlib.timed import TimedStateMachine, guarded, step
from testlib.tracked import EgdSource, FifoSource

SECONDS = int(os.environ.get('FUZZ_SECONDS', 120))
SAVES = 2       # of an example, since saving takes long
POOL = 16384    # bytes, if a machine of MACHINES has no pool_size
HANGS = -1      # an error for which reads do not return

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


may_save = precondition(
    lambda self: self.taken['save'] + self.taken['move'] < SAVES)


class HRandom(TimedStateMachine):
    """An example, which begins with a reset and with new sources.

    Source 0 may fail; source 1, a FIFO, may replace it. The test makes a
    subclass for each of MACHINES, which keeps its guest for all examples.
    """

    guest = None

    def __init__(self):
        super().__init__()
        self.sources = []
        self.current = 0        # which source the device uses
        self.added = set()      # which sources have a backend
        self.called = 0
        self.seen = Counter()   # results of each vCPU
        self.results = Counter()
        self.restarts = 0       # resets and migrations
        self.frozen = None      # the results of a guest that is stopped
        self.old = 0            # words that may come from earlier sources
        self.directory = Path(tempfile.mkdtemp(dir=self.work))

    @initialize(lossy=booleans(), swap=booleans())
    @guarded
    def begin(self, lossy, swap):
        """Half of the examples have no steps that may lose many bytes."""
        self.lossy = lossy
        self.sources = [
            (EgdSource if self.egd else FifoSource)(self.directory / 'a'),
            FifoSource(self.directory / 'b')]
        if not self.guest:
            self.start()
        for cpu in range(self.cpus):
            self.guest.set(cpu, COUNT, 0)
            # Interrupts wake a vCPU that waits: only some should.
            self.guest.set(cpu, INTERRUPTS, cpu == 0)
        self.end_faults()
        self.add_chardev()
        self.use(0)
        self.guest.reset()
        if swap:
            self.swap_twice()

    def start(self, *args, **options):
        cls = type(self)
        cls.control, wrapper = slow_source.preload(
            self.library, self.work, self.work / 'control')
        cls.guest = self.make(*args, wrapper=wrapper, **options)

    def add_chardev(self):
        if self.egd:
            self.guest.qemu.cmd('chardev-add', id='egd',
                                backend=self.sources[0].chardev)

    def use(self, which):
        """Make the device use a source; add its backend if there is none."""
        if which not in self.added:
            self.guest.qemu.cmd('object-add', **self.sources[which].options,
                                id=f'backend{which}')
        self.added.add(which)
        self.current = which
        set_property(self.guest, 'rng', f'backend{which}')

    def remove(self, which):
        """Delete a backend; returns whether QEMU did."""
        if 'error' in self.guest.qemu.qmp('object-del', id=f'backend{which}'):
            return False
        self.added.remove(which)
        return True

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

    def take(self, cpu, word):
        if not any(source.take(cpu, word) for source in self.sources):
            self.sources[0].seams -= 1
            assert self.sources[0].seams >= 0, 'a word is of no source'

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

    @step(cpus=sampled_from([{0}, {1}, {2}, {0, 1, 2}]),
          calls=one_of(integers(1, 12), sampled_from([30, 500])))
    def call(self, cpus, calls):
        for cpu in {cpu % self.cpus for cpu in cpus}:
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

    @may_save
    @step()
    def save(self):
        self.guest.save(self.directory / 'state')
        self.go_on()

    @may_save
    @step()
    def move(self):
        self.go_on()
        self.guest.save(self.directory / 'state')
        self.guest.quit()
        self.restart(float('inf'))
        self.start('-incoming', 'defer', ram=self.guest.ram)
        self.control[slow_source.INODE] = self.sources[0].inode
        self.added.clear()
        self.add_chardev()
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
        self.sources[1 - self.current].may_lose = float('inf')
        for which in self.added.copy():
            assert self.remove(which) == (which != self.current)

    @step(which=sampled_from([0, 0, 1]),
          size=one_of(integers(1, 40), integers(41, 5000)))
    def feed(self, which, size):
        self.sources[which].feed(size)

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

    @step(error=sampled_from([errno.EIO, HANGS]))
    def fail(self, error):
        if self.egd:
            self.sources[0].hang_up()
        else:
            self.control[slow_source.ERROR] = error

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

    def serves(self):
        """Whether all calls were answered, and more than the pool has."""
        done = all(map(self.guest.done, range(self.cpus)))
        self.check()
        if done and self.words < self.results[H_SUCCESS]:
            return True
        if done:
            self.words = self.results[H_SUCCESS]
            self.make_calls(0, POOL // 8 + 88)
        if self.sources[self.current].unread() < 64:
            self.sources[self.current].feed(4096)
        self.guest.qemu.cmd('query-status')
        return False

    @guarded
    def settle(self):
        """After all faults, calls are answered, and soon with new words."""
        self.end_faults()
        self.go_on()
        if self.current:
            self.swap_sources()
        self.words = float('inf')
        # While Hypothesis shrinks, HANG is too long to wait for each example.
        until(self.serves, 10 if self.found else HANG)
        answered = self.results.total()
        assert self.called == answered or \
            self.restarts and self.called < answered
        for source in self.sources:
            source.check_losses()
        set_property(self.guest, 'rng', 'rng0')
        assert all(map(self.remove, self.added.copy()))
        if self.egd:
            self.guest.qemu.cmd('chardev-remove', id='egd')

    def clean_up(self):
        for source in self.sources:
            source.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def give_up(self):
        """The next example gets another guest."""
        if not self.guest:
            return ''
        self.guest.qemu.shutdown(hard=True)
        guest, type(self).guest = self.guest, None
        return 'QEMU said: ' + guest.log()[-2000:]


@pytest.mark.parametrize('name', MACHINES)
def test_fuzz(name, pseries, image, failing_read, tmp_path, monkeypatch):
    """Random steps find nothing. All examples of a seed are tried."""
    # Other checks look for leaks, for which stacks are unwound slowly.
    monkeypatch.setenv('ASAN_OPTIONS', os.environ['ASAN_OPTIONS'].replace(
        '=1:fast_unwind_on_malloc=0', '=0'))
    cpus, egd, options = MACHINES[name]
    began = time.monotonic()
    machine = type(name, (HRandom,), {
        'cpus': cpus, 'egd': egd,
        'tested': 'health_test' not in options,
        'times_out': options['timeout'] > 0,
        'pool': options.get('pool_size', POOL),
        'work': tmp_path, 'library': failing_read,
        'make': functools.partial(
            bare_metal.Guest, pseries, image, tmp_path, 'rng-builtin',
            cpus=cpus, build=OUT / 'asan', **options)})
    how = settings(max_examples=20, stateful_step_count=30, deadline=None,
                   database=None, report_multiple_bugs=False,
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
