# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest gets no more than max-bytes in a period, and evenly."""

import os
import time

import pytest

from testlib.hcalls import (DONE, H_RANDOM, H_UNASSIGNED, START, TB_HZ, TICKS,
                            TIME)
from testlib.limits import until
from testlib.machine import add_disk, hmp, statistic

URANDOM = 'rng-random,filename=/dev/urandom'
FOR_EVER = 10 ** 12


def quota(max_bytes, period):
    return {'max_bytes': max_bytes, 'period': period, 'timeout': 0}


@pytest.mark.parametrize('max_bytes, period, seconds, cpus, options', [
    (800, 1000, 10, 1, []),             # 100 words/s, each waited for
    (1000000, 1000, 10, 4, []),
    (8000, 10000, 4, 2, []),
    (1000, 1, 4, 1, []),
    (10000000, 1000, 4, 2, []),         # a word in 800 ns
    (1000000, 1000, 4, 4, ['-accel', 'tcg,thread=single']),
    (100000, 1000, 4, 2, ['-icount', 'shift=4']),
], ids=str)
def test_rate(guest, capsys, max_bytes, period, seconds, cpus, options):
    """
    No more than the limit, by the guest's own clock; all the calls are made.

    A busy machine may make it less, but not a hundredth, as one word for each
    time that a vCPU wakes would be.
    """
    vm = guest(URANDOM, *options, **quota(max_bytes, period), cpus=cpus,
               interrupts=True)
    limit = max_bytes * 1000 / period
    calls = int(limit / 8 * seconds / cpus)
    used = vm.cpu_seconds()
    vm.call(calls, record=False)
    vm.finish()
    took = vm.seconds(range(cpus))
    rate = calls * cpus * 8 / took
    with capsys.disabled():
        print(f'\nlimit {limit:.0f} bytes/s: {rate:.0f} bytes/s, '
              f'{100 * (vm.cpu_seconds() - used) / took:.0f} % of a core',
              end=' ')
    assert limit / 10 < rate <= 1.05 * limit
    assert statistic(vm, 'bytes') == calls * cpus * 8
    assert 0 < statistic(vm, 'throttled') <= statistic(vm, 'waits')
    # Interrupts were taken meanwhile, not only between calls.
    assert max_bytes > 800 or vm.get(0, TICKS) > 2 * calls
    vm.quit()


def test_rate_without_a_host(guest):
    """
    Within 1 % of the limit, by a clock that no other load can disturb: it is
    made of the guest's instructions, and of waits that are skipped.
    """
    vm = guest(URANDOM, '-icount', 'shift=4,sleep=off',
               **quota(100000, 1000), cpus=2, interrupts=True)
    vm.call(50000, record=False)
    vm.finish()
    assert 0.99e5 < 50000 * 2 * 8 / vm.seconds((0, 1)) < 1.01e5
    vm.quit()


def test_masked_interrupts(guest):
    """With -icount, one that the guest does not take cannot stop the time."""
    vm = guest(URANDOM, '-icount', 'shift=4', **quota(8000, 1000))
    vm.call(10 ** 9)
    until(lambda: vm.get(0, START))
    before = vm.get(0, TICKS)
    until(lambda: vm.count() >= 500)
    # After a wait, at most the 50 words of 50 ms come without another one.
    assert statistic(vm, 'throttled') >= 8
    # Between its calls it takes none, although the first one came long ago.
    assert vm.get(0, TICKS) == before
    vm.quit()


def test_even(guest):
    """
    Words come one by one, not a second's worth at a time.

    By the guest's clock, 50 of them take 500 ms, less what was saved up for 50
    ms, and what the host took from the guest between its calls.
    """
    vm = guest(URANDOM, **quota(800, 1000))
    vm.call(200, record=TIME)
    vm.finish()
    durations = vm.durations()
    assert min(sum(durations[i:i + 50])
               for i in range(len(durations) - 50)) > 0.3 * TB_HZ
    vm.quit()


def test_others_go_on(guest):
    """
    Who waits for its quota holds up neither other vCPUs nor the monitor.

    If it kept QEMU's lock, the others would get no more than a tenth, and an
    answer would take the second that a word does.
    """
    vm = guest(URANDOM, **quota(8, 1000), cpus=4)

    def rate():
        done = [vm.get(cpu, DONE) for cpu in (2, 3)]
        vm.call(200000, H_UNASSIGNED, (2, 3), record=False)
        until(lambda: [vm.get(cpu, DONE) for cpu in (2, 3)] ==
              [n + 1 for n in done])
        return 200000 / vm.seconds((2, 3))

    def seconds_to_answer():
        start = time.monotonic()
        vm.qemu.cmd('query-status')
        return time.monotonic() - start

    # At its best, as the machine may be busy with other things
    alone = max(rate() for _ in range(5))
    vm.call(FOR_EVER, H_RANDOM, (0, 1), record=False)
    until(lambda: statistic(vm, 'throttled') > 0)
    until(lambda: rate() > alone / 3)
    assert min(seconds_to_answer() for _ in range(20)) < 0.2
    vm.qemu.cmd('stop')
    vm.qemu.cmd('cont')
    vm.quit()


def test_source_is_left_alone(guest, fifo):
    """Of what a guest may not have yet, only the next word is read."""
    vm = guest(fifo.backend, **quota(80, 1000), pool_size=8)
    fifo.write(os.urandom(8 * 100))
    vm.call(100)
    until(lambda: statistic(vm, 'throttled') > 2)
    assert fifo.unread() >= 8 * (100 - vm.count() - 1) > 0
    vm.quit()


def test_bytes_come_meanwhile(guest, fifo):
    """A source has the whole time to give the word that a call waits for."""
    vm = guest(fifo.backend, **quota(8, 2 ** 31), pool_size=8)
    fifo.write(os.urandom(8))
    vm.call()
    vm.finish()
    vm.call()
    until(lambda: statistic(vm, 'throttled') == 1)
    fifo.write(os.urandom(8))
    until(lambda: fifo.unread() == 0)
    assert vm.calls_wait() and vm.count() == 1
    assert statistic(vm, 'throttled') == 1
    vm.quit()


def test_loadvm(guest, tmp_path):
    """What was due long after the time that it is now is due soon."""
    vm = guest(URANDOM, **quota(800, 1000))
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm early')
    vm.call(300)
    vm.finish()

    def seconds_after_loadvm():
        hmp(vm.qemu, 'loadvm early')
        vm.call(20)
        vm.finish()
        assert len(vm.values()) == 20
        return vm.seconds()

    # The 300 words before took 3 s. The machine may be busy with other things.
    until(lambda: seconds_after_loadvm() < 2)
    vm.quit()
