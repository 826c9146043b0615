#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure many guests on one host that all call at the same time."""

import argparse
import operator
import statistics
import time
from contextlib import ExitStack

import record
from machines import EGD, egd, guest
from testlib.hcalls import COUNT, DAMAGE, H_RANDOM, H_UNASSIGNED
from testlib.machine import URANDOM, cpu_seconds, statistic

QUOTA = 1000    # bytes per second
# The bytes per second of the slow source for each guest, as if 1,000 guests
# shared 100,000 bytes/s
SHARE = 100


def cases(number):
    """The title, rate of the EGD daemon, backend and properties of each case.

    From a slow daemon, the health test of the first words would take long.
    """
    rate = SHARE * number
    untested = {'health_test': 'off'}
    slow = f'EGD daemon with {rate:,} bytes/s'
    return {
        'none': ('no device, a hypercall that nobody implements, '
                 '8 bytes a call', 0, None, {}),
        'urandom': ('rng-random on /dev/urandom', 0, URANDOM, {}),
        'egd': ('EGD daemon', 0, EGD, untested),
        'quota': (f'/dev/urandom, max-bytes={QUOTA},period=1000', 0, URANDOM,
                  {'max_bytes': QUOTA, 'period': 1000, 'timeout': 0}),
        'slow': (slow, rate, EGD, untested),
        'slow8': (f'{slow}, pool-size=8', rate, EGD,
                  {'pool_size': 8, **untested})}


def look(vm):
    """The time, the guest's calls and bytes, and QEMU's processor time.

    A busy host may be slow to answer, so that each guest has its own time.
    """
    return (time.monotonic(), vm.get(0, COUNT),
            statistic(vm, 'bytes') if vm.has_device else 0,
            cpu_seconds(vm.qemu.get_pid()))


def measure(started, seconds, daemon):
    """Have all guests call at the same time, for so many seconds."""
    opcode = H_RANDOM if started[0].has_device else H_UNASSIGNED
    for vm in started:
        vm.call(2 ** 40, opcode)
    time.sleep(0.5)     # The start is not measured.
    daemon_cpu, before = cpu_seconds(daemon.pid), list(map(look, started))
    time.sleep(seconds)
    daemon_cpu = cpu_seconds(daemon.pid) - daemon_cpu
    times, calls, got, cpu = zip(*(map(operator.sub, look(vm), old)
                                   for vm, old in zip(started, before)))
    for vm in started:
        vm.qemu.cmd('stop')
        record.expect(not vm.get(0, DAMAGE),
                      'a call changed registers that it must not')
    return {'calls': calls, 'bytes': got,
            'rates': [(8 * count if opcode == H_UNASSIGNED else size) / taken
                      for taken, count, size in zip(times, calls, got)],
            'failed_calls': sum(statistic(vm, 'timeouts') for vm in started
                                if vm.has_device),
            'cpu_ns_per_call': sum(cpu) * 1e9 / max(sum(calls), 1),
            'daemon_ns_per_byte': daemon_cpu * 1e9 / max(sum(got), 1)}


def run_all(directory, number, seconds):
    """Measure each case with new machines, so that no case has warm caches."""
    found = {}
    for name, (title, rate, backend, properties) in cases(number).items():
        print(f'{number} guests: {title}', flush=True)
        with egd(directory, rate) as (daemon, args), ExitStack() as machines:
            found[name] = measure(
                [machines.enter_context(guest(
                    directory, backend, *(args if backend == EGD else []),
                    **properties))
                 for _ in range(number)], seconds, daemon)
    return found


def case_line(title, case):
    rates = case['rates']
    ratio = f'{max(rates) / min(rates):.2f}' if min(rates) else \
        'some got nothing'
    return (f"| {title} | {statistics.median(rates):,.0f} | {ratio} "
            f"| {case['failed_calls']:,} "
            f"| {case['cpu_ns_per_call']:,.0f} ns |")


def table(number, seconds, found):
    """The lines of many.md."""
    return [
        f'{number} guests call at once, each as often as it can, for '
        f'{seconds} s.', '',
        '| source | bytes/s of a guest (median) | most / least | failed calls '
        '| processor time of a call |',
        '| --- | --- | --- | --- | --- |',
        *(case_line(title, found[name])
          for name, (title, *_) in cases(number).items()), '',
        'The first row is what the host makes of guests without the device. '
        "The EGD daemon's processor time is "
        f"{found['egd']['daemon_ns_per_byte']:.0f} ns a byte."]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--guests', type=int, default=20)
    parser.add_argument('--seconds', type=int, default=20,
                        help='of each case (default: 20)')
    with record.measuring(parser) as (args, directory):
        found = run_all(directory, args.guests, args.seconds)
    record.write(args.out, 'many', {'guests': args.guests, 'cases': found},
                 table(args.guests, args.seconds, found))


if __name__ == '__main__':
    main()
