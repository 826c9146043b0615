#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure many guests on one host that all call at the same time."""

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import record  # noqa: E402
from machines import egd, guest, running  # noqa: E402
from testlib.hcalls import COUNT, DAMAGE, H_RANDOM, H_UNASSIGNED  # noqa: E402
from testlib.machine import URANDOM, cpu_seconds, statistic  # noqa: E402

FOR_EVER = 2 ** 40
QUOTA = 1000    # bytes per second
# The bytes per second of the slow source for each guest, as if 1,000 guests
# shared 100,000 bytes/s
SHARE = 100


def look(vm):
    """The time, the guest's calls, and the bytes that it got.

    A busy host may be slow to answer, so that each guest has its own time.
    """
    return (time.monotonic(), vm.get(0, COUNT),
            statistic(vm, 'bytes') if vm.has_device else 0)


def look_at_all(started, daemon):
    return (sum(vm.cpu_seconds() for vm in started),
            cpu_seconds(daemon.pid) if daemon else 0, *map(look, started))


def stop(vm):
    """Stop a guest; return how many calls failed."""
    record.expect(vm.qemu.is_running(), vm.log())
    vm.qemu.cmd('stop')
    record.expect(not vm.get(0, DAMAGE),
                  'a call changed registers that it must not')
    return statistic(vm, 'timeouts') if vm.has_device else 0


def measure(started, seconds, daemon):
    """Have all guests call at the same time, for so many seconds."""
    opcode = H_RANDOM if started[0].has_device else H_UNASSIGNED
    for vm in started:
        vm.call(FOR_EVER, opcode)
    time.sleep(0.5)     # The start is not measured.
    cpu, daemon_cpu, *before = look_at_all(started, daemon)
    time.sleep(seconds)
    cpu_after, daemon_cpu_after, *after = look_at_all(started, daemon)
    times, calls, got = zip(*([b - a for a, b in zip(*pair)]
                              for pair in zip(before, after)))
    return {'calls': calls, 'bytes': got,
            'rates': [(8 * count if opcode == H_UNASSIGNED else size) / taken
                      for taken, count, size in zip(times, calls, got)],
            'failed_calls': sum(map(stop, started)),
            'cpu_ns_per_call': (cpu_after - cpu) * 1e9 / max(sum(calls), 1),
            'daemon_ns_per_byte': (daemon_cpu_after - daemon_cpu) * 1e9 /
            max(sum(got), 1)}


def run_all(directory, number, seconds):
    """Measure each case with new machines, so that no case has warm caches."""
    def case(name, *args, daemon=None, **properties):
        print(f'{number} guests: {name}', flush=True)
        with ExitStack() as stack:
            found[name] = measure(
                [stack.enter_context(running(guest(
                    directory, *args, **properties))) for _ in range(number)],
                seconds, daemon)

    found = {}
    case('none', None)
    case('urandom', URANDOM)
    case('quota', URANDOM, max_bytes=QUOTA, period=1000, timeout=0)
    slow = [str(SHARE * number)]
    for name, rate, properties in (('egd', [], {}), ('slow', slow, {}),
                                   ('slow8', slow, {'pool_size': 8})):
        with egd(directory, *rate) as (daemon, args):
            # From a slow daemon, the test of the first words takes long.
            case(name, 'rng-egd,chardev=egd', *args, daemon=daemon,
                 health_test='off', **properties)
    return found


def case_line(name, case):
    rates = case['rates']
    ratio = f'{max(rates) / min(rates):.2f}' if min(rates) else \
        'some got nothing'
    return (f"| {name} | {statistics.median(rates):,.0f} | {ratio} "
            f"| {case['failed_calls']:,} "
            f"| {case['cpu_ns_per_call']:,.0f} ns |")


def table(number, seconds, found):
    """The lines of many.md."""
    slow = f'EGD daemon with {SHARE * number:,} bytes/s'
    names = {'none': 'no device, a hypercall that nobody implements, '
             '8 bytes a call',
             'urandom': 'rng-random on /dev/urandom', 'egd': 'EGD daemon',
             'quota': f'/dev/urandom, max-bytes={QUOTA},period=1000',
             'slow': slow, 'slow8': f'{slow}, pool-size=8'}
    return [
        f'{number} guests call at once, each as often as it can, for '
        f'{seconds} s.', '',
        '| source | bytes/s of a guest (median) | most / least | failed calls '
        '| processor time of a call |',
        '| --- | --- | --- | --- | --- |',
        *(case_line(name, found[key]) for key, name in names.items()), '',
        'The first row is what the host makes of guests without the device. '
        "The EGD daemon's processor time is "
        f"{found['egd']['daemon_ns_per_byte']:.0f} ns a byte."]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--guests', type=int, default=20)
    parser.add_argument('--seconds', type=int, default=20,
                        help='how long they call, for each source '
                        '(default: 20)')
    args = record.parse(parser)
    with record.measuring() as directory:
        found = run_all(directory, args.guests, args.seconds)
    record.write(args.out, 'many', record.environment(),
                 {'guests': args.guests, 'cases': found},
                 table(args.guests, args.seconds, found))


if __name__ == '__main__':
    main()
