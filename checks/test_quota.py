# SPDX-License-Identifier: GPL-2.0-or-later
"""The quota: a guest gets max-bytes in each period at most, evenly spread."""

import os
import time

import pytest

from testlib.hcalls import TICKS
from testlib.limits import until
from testlib.machine import URANDOM, add_disk, hmp, statistic


@pytest.mark.parametrize('max_bytes, period, seconds, cpus, least, way', [
    (800, 1000, 10, 1, 0.01, {}),       # 100 words/s, with a wait for each
    (8000, 10000, 4, 2, 0.01, {}),
    (1000, 1, 4, 1, 0.01, {}),
    (10000000, 1000, 4, 2, 0.01, {}),   # a word each 800 ns
    (1000000, 1000, 4, 4, 0.01, {'accel': 'tcg,thread=single'}),
    (1000000, 1000, 4, 32, 0.8, {}),
], ids=str)
def test_rate(guest, max_bytes, period, seconds, cpus, least, way):
    """
    The rate by the guest's own clock is at most the limit, and no call fails.

    If a vCPU got only one word each time that it wakes up, it would get less
    than a hundredth of the limit. If 32 vCPUs got their words strictly in
    turn, they would get a tenth.
    """
    vm = guest(URANDOM, **way, cpus=cpus, interrupts=True, timeout=0,
               max_bytes=max_bytes, period=period)
    limit = max_bytes * 1000 / period
    calls = int(limit / 8 * seconds / cpus)

    def share():
        before = statistic(vm, 'bytes')
        vm.call(calls, record=False)
        vm.finish()
        assert statistic(vm, 'bytes') - before == calls * cpus * 8
        share = calls * cpus * 8 / vm.seconds(range(cpus)) / limit
        assert share <= 1.05
        return share

    # A busy host may need more than one try.
    until(lambda: share() >= least)
    assert 0 < statistic(vm, 'throttled') <= statistic(vm, 'waits')
    # The vCPU took interrupts during its calls, not only between them.
    assert max_bytes > 800 or vm.get(0, TICKS) > 2 * calls


def test_rate_and_bursts_without_a_host(guest, tmp_path):
    """
    With a clock that load cannot disturb, the rate is the limit within 1 %.

    The clock is icount: QEMU counts the guest's instructions, and skips waits.
    Time advances although interrupts, which the guest masks, are pending.
    A guest that does not call saves up no more than 50 ms. loadvm sets the
    clock back; the next word is still due soon.
    """
    vm = guest(URANDOM, icount='shift=4,sleep=off', cpus=2, timeout=0,
               max_bytes=100000, period=1000)
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm early')

    def check_rate():
        vm.call(50000, record=False)
        vm.finish()
        assert 0.99e5 < 50000 * 2 * 8 / vm.seconds((0, 1)) < 1.01e5

    check_rate()
    time.sleep(1)
    check_rate()
    hmp(vm.qemu, 'loadvm early')
    check_rate()


def test_source_is_left_alone(guest, fifo):
    """While a call waits for quota, its word is read, but no later one."""
    vm = guest(fifo.backend, timeout=0, pool_size=8, max_bytes=8,
               period=2 ** 31)
    fifo.write(os.urandom(8 * 10))
    vm.call(2)
    until(lambda: statistic(vm, 'throttled') and fifo.unread() == 8 * 8)
    assert vm.calls_wait() and vm.count() == 1
    assert fifo.unread() == 8 * 8
    assert statistic(vm, 'throttled') == 1
