# SPDX-License-Identifier: GPL-2.0-or-later
"""The quota: a guest gets max-bytes in each period at most, evenly spread."""

import os
import time

import pytest

from testlib.hcalls import TICKS
from testlib.limits import until
from testlib.machine import URANDOM, add_disk, hmp, statistic


def quota(max_bytes, period):
    return {'max_bytes': max_bytes, 'period': period, 'timeout': 0}


@pytest.mark.parametrize('max_bytes, period, seconds, cpus, way', [
    (800, 1000, 10, 1, {}),             # 100 words/s, with a wait for each
    (1000000, 1000, 4, 4, {}),
    (8000, 10000, 4, 2, {}),
    (1000, 1, 4, 1, {}),
    (10000000, 1000, 4, 2, {}),         # a word each 800 ns
    (1000000, 1000, 4, 4, {'accel': 'tcg,thread=single'}),
], ids=str)
def test_rate(guest, max_bytes, period, seconds, cpus, way):
    """
    The rate by the guest's own clock is at most the limit, and no call fails.

    A busy host may reduce the rate, but not to a hundredth. If a vCPU got only
    one word each time that it wakes up, the rate would be that low.
    """
    vm = guest(URANDOM, **way, **quota(max_bytes, period), cpus=cpus,
               interrupts=True)
    limit = max_bytes * 1000 / period
    calls = int(limit / 8 * seconds / cpus)
    vm.call(calls, record=False)
    vm.finish()
    rate = calls * cpus * 8 / vm.seconds(range(cpus))
    assert limit / 100 < rate <= 1.05 * limit
    assert statistic(vm, 'bytes') == calls * cpus * 8
    assert 0 < statistic(vm, 'throttled') <= statistic(vm, 'waits')
    # The vCPU took interrupts during its calls, not only between them.
    assert max_bytes > 800 or vm.get(0, TICKS) > 2 * calls


def test_many_vcpus(guest):
    """
    However many vCPUs call, together they get most of their quota.

    If they got their words strictly in turn, 32 would get a tenth of it.
    """
    vm = guest(URANDOM, **quota(1000000, 1000), cpus=32)
    vm.call(10 ** 12, record=False)

    def rate():
        start, before = time.monotonic(), statistic(vm, 'bytes')
        time.sleep(1)
        return (statistic(vm, 'bytes') - before) / (time.monotonic() - start)

    # A busy host may need more than one try.
    until(lambda: rate() >= 0.8 * 1000000)


def test_rate_without_a_host(guest):
    """
    With a clock that load cannot disturb, the rate is the limit within 1 %.

    The clock is icount: QEMU counts the guest's instructions, and skips waits.
    Time advances although interrupts, which the guest masks, are pending.
    """
    vm = guest(URANDOM, icount='shift=4,sleep=off', **quota(100000, 1000),
               cpus=2)
    vm.call(50000, record=False)
    vm.finish()
    assert 0.99e5 < 50000 * 2 * 8 / vm.seconds((0, 1)) < 1.01e5


def test_burst(guest):
    """A guest that does not call for a second saves up no more than 50 ms."""
    vm = guest(URANDOM, **quota(8000, 1000))
    vm.call()
    vm.finish()
    time.sleep(1)
    vm.call(500)
    vm.finish()
    assert vm.seconds() >= 0.44


def test_source_is_left_alone(guest, fifo):
    """While a call waits for quota, its word is read, but no later one."""
    vm = guest(fifo.backend, **quota(8, 2 ** 31), pool_size=8)
    fifo.write(os.urandom(8 * 10))
    vm.call(2)
    until(lambda: statistic(vm, 'throttled') and fifo.unread() == 8 * 8)
    assert vm.calls_wait() and vm.count() == 1
    assert fifo.unread() == 8 * 8
    assert statistic(vm, 'throttled') == 1


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
