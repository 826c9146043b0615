# SPDX-License-Identifier: GPL-2.0-or-later
"""The quota: a guest gets max-bytes in each period at most, evenly spread."""

import os
import time

import pytest

from testlib.hcalls import (DONE, H_RANDOM, H_UNASSIGNED, START, TB_HZ, TICKS,
                            TIME)
from testlib.limits import until
from testlib.machine import URANDOM, add_disk, hmp, statistic

FOR_EVER = 10 ** 12


def quota(max_bytes, period):
    return {'max_bytes': max_bytes, 'period': period, 'timeout': 0}


@pytest.mark.parametrize('max_bytes, period, seconds, cpus, way', [
    (800, 1000, 10, 1, {}),             # 100 words/s, with a wait for each
    (1000000, 1000, 10, 4, {}),
    (8000, 10000, 4, 2, {}),
    (1000, 1, 4, 1, {}),
    (10000000, 1000, 4, 2, {}),         # a word each 800 ns
    (1000000, 1000, 4, 4, {'accel': 'tcg,thread=single'}),
    (100000, 1000, 4, 2, {'icount': 'shift=4'}),
], ids=str)
def test_rate(guest, capsys, max_bytes, period, seconds, cpus, way):
    """
    The rate by the guest's own clock is at most the limit, and no call fails.

    A busy host may reduce the rate, but not to a hundredth. If a vCPU got only
    one word each time that it wakes up, the rate would be that low.
    """
    vm = guest(URANDOM, **way, **quota(max_bytes, period), cpus=cpus,
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
    # The vCPU took interrupts during its calls, not only between them.
    assert max_bytes > 800 or vm.get(0, TICKS) > 2 * calls
    vm.quit()


@pytest.mark.parametrize('cpus', [4, 16, 32])
def test_many_vcpus(guest, cpus):
    """
    However many vCPUs call, together they get most of their quota.

    If they got their words strictly in turn, 32 would get a tenth of it.
    """
    vm = guest(URANDOM, **quota(1000000, 1000), cpus=cpus)
    vm.call(FOR_EVER, record=False)

    def rate():
        start, before = time.monotonic(), statistic(vm, 'bytes')
        time.sleep(1)
        return (statistic(vm, 'bytes') - before) / (time.monotonic() - start)

    # A busy host may need more than one try.
    until(lambda: rate() >= 0.8 * 1000000)
    vm.quit()


def test_rate_without_a_host(guest):
    """
    With a clock that load cannot disturb, the rate is the limit within 1 %.

    The clock is icount: QEMU counts the guest's instructions, and skips waits.
    """
    vm = guest(URANDOM, '-icount', 'shift=4,sleep=off',
               **quota(100000, 1000), cpus=2, interrupts=True)
    vm.call(50000, record=False)
    vm.finish()
    assert 0.99e5 < 50000 * 2 * 8 / vm.seconds((0, 1)) < 1.01e5
    vm.quit()


def test_masked_interrupts(guest):
    """With -icount, time advances although an interrupt is pending."""
    vm = guest(URANDOM, '-icount', 'shift=4', **quota(8000, 1000))
    vm.call(10 ** 9)
    until(lambda: vm.get(0, START))
    before = vm.get(0, TICKS)
    until(lambda: vm.count() >= 500)
    # After a wait, at most 50 words, the quota of 50 ms, need no further wait.
    assert statistic(vm, 'throttled') >= 8
    # The guest has taken no interrupt, although one has been pending for long.
    assert vm.get(0, TICKS) == before
    vm.quit()


def test_even(guest):
    """
    Words come one by one, not the quota of a whole second at a time.

    By the guest's clock, 50 words take 500 ms, without up to 50 ms that the
    guest had saved, and without the time that the guest did not run between
    its calls.
    """
    vm = guest(URANDOM, **quota(800, 1000))
    vm.call(200, record=TIME)
    vm.finish()
    durations = vm.durations()
    assert min(sum(durations[i:i + 50])
               for i in range(len(durations) - 50)) > 0.3 * TB_HZ
    vm.quit()


def test_burst(guest):
    """A guest that does not call for a second saves up no more than 50 ms."""
    vm = guest(URANDOM, **quota(8000, 1000))
    vm.call()
    vm.finish()
    time.sleep(1)
    vm.call(500)
    vm.finish()
    assert vm.seconds() >= 0.44
    vm.quit()


def test_others_go_on(guest):
    """
    A vCPU that waits for the quota delays neither other vCPUs nor the monitor.

    If the vCPU kept the BQL, other vCPUs would make less than a tenth of their
    calls, and an answer of the monitor would take a second, as a word does.
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

    # Use the best of some rates, as the host may be busy.
    alone = max(rate() for _ in range(5))
    vm.call(FOR_EVER, H_RANDOM, (0, 1), record=False)
    until(lambda: statistic(vm, 'throttled') > 0)
    until(lambda: rate() > alone / 3)
    assert min(seconds_to_answer() for _ in range(20)) < 0.2
    vm.qemu.cmd('stop')
    vm.qemu.cmd('cont')
    vm.quit()


def test_source_is_left_alone(guest, fifo):
    """Of the words that the guest may not have yet, only the next is read."""
    vm = guest(fifo.backend, **quota(80, 1000), pool_size=8)
    fifo.write(os.urandom(8 * 100))
    vm.call(100)
    until(lambda: statistic(vm, 'throttled') > 2)
    assert fifo.unread() >= 8 * (100 - vm.count() - 1) > 0
    vm.quit()


def test_bytes_come_meanwhile(guest, fifo):
    """The source is read for the next word while its call waits for quota."""
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
    """loadvm sets the guest's clock back; the next word is still due soon."""
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

    # The 300 words took 3 s. A busy host may need more than one try.
    until(lambda: seconds_after_loadvm() < 2)
    vm.quit()
