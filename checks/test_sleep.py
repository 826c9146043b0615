# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU that waits in a hypercall is as cheap for others as an idle one."""

import statistics
import time

import pytest

from testlib.bare_metal import source_bytes
from testlib.hcalls import ATOMIC, START, TB_HZ, TICKS
from testlib.limits import until
from testlib.machine import add_disk, cpu_share, hmp, statistic


def exclusive_us(vm):
    """
    Durations in microseconds of atomic operations of vCPU 0.

    For each of them, TCG stops all other vCPUs.
    """
    vm.call(3000, cpus=[0], record=ATOMIC)
    until(lambda: vm.done(0))
    return [ticks * 1e6 / TB_HZ for ticks in vm.durations()]


def test_exclusive_sections(guest, fifo):
    """
    A vCPU that waits does not delay exclusive operations of another one.

    If TCG had to wake each vCPU, operations would take ten times longer.
    """
    vm = guest(fifo.backend, cpus=9, timeout=0)

    def is_quick():
        """Measure both soon after each other, as the host may become busy."""
        idle = statistics.median(exclusive_us(vm))
        vm.begin(range(1, vm.cpus))
        durations = exclusive_us(vm)
        assert not any(map(vm.done, range(1, vm.cpus)))
        fifo.write(source_bytes(0, 8))
        vm.finish()
        return statistics.median(durations) <= 3 * idle + 2 and \
            max(durations) < 5000

    until(is_quick)
    vm.quit()


def test_exclusive_sections_and_monitor(guest, fifo, tmp_path):
    """vCPUs stop and go on, although exclusive operations never cease."""
    vm = guest(fifo.backend, cpus=5, timeout=0)
    add_disk(vm.qemu, tmp_path)
    vm.begin(range(1, 5))
    vm.call(10 ** 9, cpus=[0], record=ATOMIC)
    for _ in range(5):
        for _ in range(10):
            vm.qemu.cmd('stop')
            vm.qemu.cmd('cont')
        hmp(vm.qemu, 'savevm saved')
        hmp(vm.qemu, 'loadvm saved')
        vm.reset()
        until(lambda: all(vm.get(cpu, START) for cpu in range(5)))
    fifo.write(source_bytes(0, 4))
    until(lambda: all(map(vm.done, range(1, 5))))
    vm.quit()


@pytest.mark.parametrize('interrupts', [False, True])
@pytest.mark.parametrize('cpus', [1, 4])
@pytest.mark.parametrize('sleep', ['on', 'off'])
def test_clock(guest, fifo, sleep, cpus, interrupts):
    """
    With -icount, the guest's clock goes on in a wait, but never races ahead.

    With sleep=off, an idle guest's clock jumps to its next timer at once. If
    it did so in a wait, hours could pass, and QEMU would use up a core.
    """
    vm = guest(fifo.backend, icount=f'shift=3,sleep={sleep}', cpus=cpus,
               interrupts=interrupts, timeout=0)
    start = time.monotonic()
    vm.begin()
    if interrupts:
        for cpu in range(cpus):
            before = vm.get(cpu, TICKS)
            until(lambda: vm.get(cpu, TICKS) >= before + 100)
    else:
        until(lambda: cpu_share(vm.qemu, 1) < 0.05)
    fifo.write(source_bytes(0, cpus))
    vm.finish()
    assert 0.1 < vm.seconds(range(cpus)) < 1.2 * (time.monotonic() - start)
    vm.quit()


@pytest.mark.parametrize('way', [{'accel': 'tcg,thread=single'},
                                 {'icount': 'shift=3'}], ids=str)
def test_tries_of_many(guest, fifo, way):
    """
    vCPUs that share a thread share their sleep: each tries every 20 ms.

    The time that a call has waited counts up to its last try. If 64 vCPUs
    slept for 20 ms in turn, the last try would be 0.64 s ago on average.
    """
    cpus = 64
    vm = guest(fifo.backend, **way, cpus=cpus, timeout=0)
    vm.begin()
    until(lambda: statistic(vm, 'waits') == cpus)
    start = time.monotonic()

    def last_try():
        """How long ago it is on average, in seconds, and a little less."""
        waited = statistic(vm, 'wait-time') / 1e9 / cpus
        return time.monotonic() - start - waited

    time.sleep(2)
    until(lambda: last_try() < 0.2)
    fifo.write(source_bytes(0, cpus))
    vm.finish()
    vm.quit()
