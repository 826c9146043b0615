# SPDX-License-Identifier: GPL-2.0-or-later
"""The measurements of bench/compare.py."""

import itertools
import math
import statistics
import time
import timeit

from machines import EGD, guest
from record import expect
from report import FIGURES
from testlib import OUT, slow_source
from testlib.hcalls import (DURATIONS, FAULTS, H_RANDOM, H_UNASSIGNED, TB_HZ,
                            TIME)
from testlib.limits import until
from testlib.linux import CURRENT, Console, linux_args
from testlib.machine import URANDOM, machine
from testlib.programs import compile_for_guest

QEMUS = {'ours': OUT / 'native', 'peer': OUT / 'peer/native'}
SOURCES = {'rng-random': URANDOM, 'rng-builtin': 'rng-builtin', 'rng-egd': EGD}
# The commands that have Linux use a device
DEVICES = {'spapr-rng': f'echo pseries_rng >{CURRENT}',
           'virtio-rng-pci': 'modprobe virtio_pci; modprobe virtio-rng; '
                             f'echo virtio_rng.0 >{CURRENT}'}

BATCH = 0.04    # intended seconds of one batch of calls
BARE_LIMIT = 15
BLOCK = 4096    # bytes of a read that is measured for its throughput


def durations(ticks):
    """The result for durations in ticks of the time base."""
    ticks = sorted(ticks)
    samples = len(ticks)
    return {**{name: round(ticks[math.ceil(samples * share) - 1] * 1e9 / TB_HZ)
               for name, share in FIGURES.items()}, 'samples': samples}


def reads(size, vcpus, seconds):
    """Commands: each vCPU reads; then print a line of what they measured."""
    return ("start=$(($(sed 's/\\..*//' /proc/uptime) + 2))\n"
            f'seq 0 {vcpus - 1} | xargs -P {vcpus} -I cpu sh -c '
            f'"taskset -c cpu /reads {size} {seconds} $start >/cpu"\n'
            "echo \"result $(cat /[0-9] | tr '\\n' ';')\"\n")


class Calls:
    """The measurements of one hypercall on one machine."""

    def __init__(self, vm, opcode):
        self._vm = vm
        self._opcode = opcode
        self.ticks = []
        self._calls = self._seconds = 0
        self._batch = 16

    def _make(self, calls, record=False):
        self._vm.call(calls, self._opcode, record=record)
        self._vm.finish(BARE_LIMIT)
        return self._vm.seconds(range(self._vm.cpus))

    def measure(self):
        """Make one batch for the throughput, and one for the durations."""
        seconds = self._make(self._batch)
        self._seconds += seconds
        self._calls += self._batch * self._vm.cpus
        self._make(min(self._batch, DURATIONS), TIME)
        for cpu in range(self._vm.cpus):
            self.ticks.extend(self._vm.durations(cpu))
        self._batch = min(2 * self._batch,
                          max(16, round(self._batch * BATCH / seconds)))

    def result(self):
        return {'calls_per_s': round(self._calls / self._seconds),
                **durations(self.ticks)}


class Bench:
    """
    The measurements; each method starts the machines that it needs.

    Those of several rounds get the seconds to measure, the names of figures
    that have not shown a hang before, and the keys of an entry of the results.

    chardev: QEMU's option for the EGD daemon
    """

    def __init__(self, directory, chardev):
        self._directory = directory
        self._chardev = chardev
        self._library = slow_source.build(directory)
        compile_for_guest('guests/reads.c', directory)
        self._boots = []    # the seconds of all boots of Linux so far

    def bare_metal(self, seconds, wanted, qemu, source, vcpus, **properties):
        """Measure the null hypercall and H_RANDOM in turn."""
        if 'random' not in wanted:
            return {}
        with guest(self._directory, SOURCES[source], *self._chardev,
                   build=QEMUS[qemu], cpus=vcpus, **properties) as vm:
            null, random = Calls(vm, H_UNASSIGNED), Calls(vm, H_RANDOM)
            end = time.monotonic() + seconds
            try:
                while time.monotonic() < end:
                    null.measure()
                    random.measure()
            except AssertionError:
                if all(map(vm.done, range(vcpus))):
                    raise
                return {'random': {'hangs_after_s': BARE_LIMIT}}
            expect(sum(vm.get(cpu, FAULTS) for cpu in range(vcpus)) ==
                   len(null.ticks), 'calls failed')
            return {'null': null.result(), 'random': random.result()}

    def slow(self, seconds, wanted, qemu, chunk, chunk_ms):
        """Measure a guest that calls all the time, and the monitor's answers.

        The source gives so many bytes each chunk_ms. QEMU's own device may
        hang at a "stop".
        """
        if not wanted:
            return {}
        source = slow_source.SlowSource(self._directory, self._library, chunk,
                                        chunk_ms)
        # The test of the first words would take longer than the measurement.
        options = {'health_test': 'off'} if qemu == 'ours' else {}
        with guest(self._directory, source.backend, build=QEMUS[qemu],
                   wrapper=source.wrapper, **options) as vm:
            vm.call(1 << 40)
            until(lambda: source.is_read)
            start, before, times = time.monotonic(), vm.count(), []
            while time.monotonic() < start + seconds:
                times += slow_source.latencies(vm.qemu, 10)
            got = (vm.count() - before) * 8 / (time.monotonic() - start)
            if qemu == 'peer':
                vm.qemu.settimeout(BARE_LIMIT)
            try:
                stop = timeit.timeit(lambda: vm.qemu.cmd('stop'), number=1)
                end = {'stop_ms': round(stop * 1e3, 2)}
            except TimeoutError:
                end = {'hangs_after_s': BARE_LIMIT}
            return {'slow': {
                'bytes_per_s': round(got),
                'monitor_median_ms': round(statistics.median(times) * 1e3, 2),
                'monitor_worst_ms': round(max(times) * 1e3, 2), **end}}

    def _reads(self, limit, job, args, qemu):
        """Have Linux run a job; return the results before a hang."""
        start = time.monotonic()
        vm = machine(self._directory, *linux_args(
            '6.1', self._directory, job, ['reads']), *args, build=QEMUS[qemu])
        console = Console(vm, quiet=True)
        try:
            console.lines_until('--- job begin', limit)
            self._boots.append(time.monotonic() - start)
            console.lines_until('--- job end', limit)
            expect(console.lines[-1].endswith(' 0'), 'Linux cannot read')
        except AssertionError:
            pass
        finally:
            vm.shutdown(hard=True)
        return [[list(map(int, reader.split()))
                 for reader in line.split(' ', 1)[1].split(';')[:-1]]
                for line in console.lines if line.startswith('result ')]

    def linux(self, seconds, wanted, qemu, source, vcpus):
        """Measure reads of /dev/hwrng, one device after the other.

        After a hang, the further devices get another machine.
        """
        results = {}
        while wanted:
            job = 'set -e\n' + ''.join(
                f'{DEVICES[device]}\n{reads(8, vcpus, seconds)}'
                f'{reads(BLOCK, vcpus, seconds)}' for device in wanted)
            args = [*self._chardev, '-object', f'{SOURCES[source]},id=rng0',
                    '-smp', str(vcpus)]
            for device in wanted:
                args += ['-device', f'{device},rng=rng0']
            # Three times the longest boot so far: a busy host delays a boot.
            limit = max(30, round(3 * max(self._boots, default=60)))
            given = self._reads(limit, job, args, qemu)
            for device, words, blocks in zip(wanted, given[::2], given[1::2]):
                starts, ends, *_ = zip(*blocks)
                size = BLOCK * sum(len(ticks) for _, _, *ticks in blocks)
                results[device] = {
                    'bytes_per_s': round(size * TB_HZ /
                                         (max(ends) - min(starts))),
                    **durations(itertools.chain(*(
                        ticks for _, _, *ticks in words)))}
            wanted = wanted[len(given) // 2:]
            if wanted:
                results[wanted.pop(0)] = {'hangs_after_s': limit}
        return results
