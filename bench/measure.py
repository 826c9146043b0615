# SPDX-License-Identifier: GPL-2.0-or-later
"""The measurements of one machine."""

import collections
import math
import os
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import machines
from record import Failure
from machines import DEVICES, Hangs
from testlib.fifo import Fifo
from testlib.hcalls import (DURATIONS, FAULTS, H_RANDOM, H_UNASSIGNED, TB_HZ,
                            TIME)
from testlib.limits import within
from testlib.linux import CURRENT
from testlib.machine import cpu_seconds, spapr_rng
from testlib.programs import compile_for_guest
from testlib.slow_source import latencies

BATCH = 0.04    # intended seconds of one batch of calls
BARE_LIMIT = 15
BOOT_LIMIT = 180
NS_PER_TICK = 1e9 / TB_HZ

SELECT = {'spapr-rng': f'echo pseries_rng >{CURRENT}',
          'virtio-rng-pci': 'modprobe virtio_pci; modprobe virtio-rng; '
                            f'echo virtio_rng.0 >{CURRENT}'}


boots = []  # the seconds of all boots of Linux so far


def hangs(seconds):
    """The result for a guest that made no progress for so many seconds."""
    return {'hangs_after_s': seconds}


def figures(p50, p99, p999, longest, samples):
    """A result with durations in nanoseconds, from durations in ticks."""
    return {'p50_ns': round(p50 * NS_PER_TICK),
            'p99_ns': round(p99 * NS_PER_TICK),
            'p999_ns': round(p999 * NS_PER_TICK),
            'max_ns': round(longest * NS_PER_TICK), 'samples': samples}


def percentile(counts, total, thousandths):
    """A percentile of values, from sorted pairs of value and count."""
    rank = math.ceil(total * thousandths / 1000)
    for value, count in counts:
        rank -= count
        if rank <= 0:
            return value
    raise AssertionError


class Calls:
    """The measurements of one hypercall on one machine."""

    def __init__(self, vm, opcode):
        self._vm = vm
        self._opcode = opcode
        self._ticks = collections.Counter()
        self._calls = 0
        self._seconds = 0
        self._batch = 16
        # Use the faster of two batches: the host may have interrupted one.
        while min(self._make(self._batch), self._make(self._batch)) < \
                BATCH / 8:
            self._batch *= 2

    def _make(self, calls, record=False):
        vm = self._vm
        vm.call(calls, self._opcode, record=record)
        machines.wait_for(lambda: all(map(vm.done, range(vm.cpus))),
                          BARE_LIMIT)
        vm.finish()
        return vm.seconds(range(vm.cpus))

    def _faults(self):
        return sum(self._vm.get(cpu, FAULTS) for cpu in range(self._vm.cpus))

    def measure(self):
        """Make one batch for the throughput, and one for the durations."""
        seconds = self._make(self._batch)
        self._seconds += seconds
        self._calls += self._batch * self._vm.cpus
        before = self._faults()
        timed = min(self._batch, DURATIONS)
        self._make(timed, TIME)
        for cpu in range(self._vm.cpus):
            self._ticks.update(self._vm.durations(cpu))
        failed = self._faults() - before
        if failed != (timed * self._vm.cpus
                      if self._opcode == H_UNASSIGNED else 0):
            raise Failure(f'{failed} calls failed')
        self._batch = min(2 * self._batch,
                          max(16, round(self._batch * BATCH / seconds)))

    def result(self):
        counts = sorted(self._ticks.items())
        total = self._ticks.total()
        return {'calls_per_s': round(self._calls / self._seconds),
                **figures(*(percentile(counts, total, thousandths)
                            for thousandths in (500, 990, 999, 1000)), total)}


def bare(seconds, *which):
    """Measure the null hypercall and H_RANDOM in turn."""
    with machines.bare(*which) as vm:
        null = Calls(vm, H_UNASSIGNED)
        try:
            random = Calls(vm, H_RANDOM)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                null.measure()
                random.measure()
        except Hangs:
            return {'random': hangs(BARE_LIMIT)}
        return {'null': null.result(), 'random': random.result()}


def _stop(vm):
    """Stop the machine; return the milliseconds that it took."""
    start = time.monotonic()
    try:
        with within(BARE_LIMIT):
            vm.qemu.cmd('stop')
    except AssertionError:
        return hangs(BARE_LIMIT)
    return {'stop_ms': round((time.monotonic() - start) * 1e3, 2)}


def slow(seconds, *which):
    """Measure a guest that calls all the time, and the monitor's answers."""
    with machines.slow(*which) as (vm, source):
        vm.call(1 << 40)
        machines.wait_for(lambda: source.is_read, BARE_LIMIT)
        start, before, times = time.monotonic(), vm.count(), []
        while time.monotonic() < start + seconds:
            times += latencies(vm.qemu, 10)
        got = (vm.count() - before) * 8 / (time.monotonic() - start)
        return {'bytes_per_s': round(got),
                'monitor_median_ms': round(statistics.median(times) * 1e3, 2),
                'monitor_worst_ms': round(max(times) * 1e3, 2), **_stop(vm)}


def build_reads(directory):
    """Compile the program that measures in the Linux guest."""
    return compile_for_guest('guests/reads.c', directory)


def _linux(limit, seconds, program, qemu, source, cpus, devices):
    """Measure the devices one after the other, until one of them hangs.

    Returns the results of the devices that did not hang.
    """
    job = '\n'.join(f'{SELECT[device]}\n/reads {cpus} {seconds}'
                    for device in devices)
    with machines.backend(source) as (rng, args):
        args = [*args, '-object', f'{rng},id=rng0', '-smp', str(cpus)]
        for device in devices:
            args += ['-device', f'{device},rng=rng0']
        with machines.linux(qemu, args, job, program) as guest:
            try:
                took = guest.wait_for_line('--- job begin', limit)
                boots.append(took)
                guest.wait_for_line('--- job end', took + limit)
            except Hangs:
                pass
            lines = guest.lines
    given = [[int(word) for word in line.split()[1:]] for line in lines
             if line.startswith('result ') and line.count(' ') == 7]
    if len(given) < len(devices) and '--- job end' in '\n'.join(lines):
        raise Failure('\n'.join(lines))
    return [{'bytes_per_s': round(size * TB_HZ / ticks),
             **figures(*durations)} for *durations, size, ticks in given]


def linux(*which, devices=DEVICES):
    """Measure reads of /dev/hwrng; return the results by device."""
    results = {}
    left = list(devices)
    while left:
        # Three times the longest boot so far: a busy host delays each boot.
        limit = max(30, round(3 * max(boots))) if boots else BOOT_LIMIT
        for result in _linux(limit, *which, left):
            results[left.pop(0)] = result
        if left:
            results[left.pop(0)] = hangs(limit)
    return results


def device_args(who, rng):
    """The QEMU to use, and its arguments for the device; 'none': no device."""
    if who == 'none':
        return 'ours', []
    return who, spapr_rng(rng)


def booted(guest, who):
    """Wait for the end of the boot; return its seconds."""
    try:
        return guest.wait_for_line('--- job begin', BOOT_LIMIT)
    except Hangs:
        lines = '\n'.join(guest.lines)
        raise Failure(f'Linux ({who}) did not boot within {BOOT_LIMIT} s'
                      f'\n{lines}') from None


def boot(who):
    """The seconds from the start of QEMU to the job of Linux's init."""
    with machines.backend('rng-random') as (rng, _):
        with machines.linux(*device_args(who, rng)) as guest:
            return round(booted(guest, who), 3)


def idle(seconds, settle):
    """Measure idle Linux guests, without and with each device, together."""
    with ExitStack() as stack:
        guests = {}
        for who in ('none', *machines.QEMUS):
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            fifo = stack.enter_context(closing(Fifo(Path(directory))))
            fifo.write(os.urandom(65536))
            guests[who] = fifo, stack.enter_context(
                machines.linux(*device_args(who, fifo.backend), 'sleep 1000'))
            booted(guests[who][1], who)
        time.sleep(settle)

        def used():
            return {who: (cpu_seconds(guest.qemu.get_pid()), fifo.unread())
                    for who, (fifo, guest) in guests.items()}

        before = used()
        time.sleep(seconds)
        after = used()
    if not all(unread for _, unread in after.values()):
        raise Failure('a guest that does nothing emptied its source')
    return {who: {'seconds': seconds,
                  'cpu_s': round(after[who][0] - before[who][0], 3),
                  'source_bytes': before[who][1] - after[who][1],
                  'source_bytes_since_start': 65536 - after[who][1]}
            for who in guests}
