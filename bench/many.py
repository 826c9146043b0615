#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure many guests on one host that all call at the same time."""

import argparse
import functools
import statistics
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

import record  # noqa: E402
from record import expect  # noqa: E402
from sources import egd  # noqa: E402
from testlib import bare_metal  # noqa: E402
from testlib.hcalls import COUNT, DAMAGE, H_RANDOM, H_UNASSIGNED  # noqa: E402
from testlib.machine import (URANDOM, cpu_seconds, machine,  # noqa: E402
                             statistic)

FOR_EVER = 2 ** 40
QUOTA = 1000    # bytes per second
# The bytes per second of the slow source for each guest, as if 1,000 guests
# shared 100,000 bytes/s
SHARE = 100


@contextmanager
def guests(directory, number, backend, *args, **properties):
    """A number of running machines, which make no calls yet."""
    image = bare_metal.build(directory)
    with ExitStack() as stack:
        started = []
        for _ in range(number):
            guest = bare_metal.Guest(
                functools.partial(machine, directory), image, directory,
                backend, *args, **properties)
            stack.callback(guest.ram.unlink)
            stack.callback(guest.qemu.shutdown, hard=True)
            started.append(guest)
        yield started


def check_guest(guest, given):
    """Check that the guest got each word that the device gave."""
    timeouts, got = statistic(guest, 'timeouts'), guest.get(0, COUNT)
    # The guest may not have counted its last call yet.
    expect(0 <= given // 8 + timeouts - got <= 1,
           f'{given} bytes given and {timeouts} calls failed make {got} calls')
    return timeouts


def look(guest):
    """The time, the guest's calls, and the bytes that it got.

    A busy host may be slow to answer, so that each guest has its own time.
    """
    return (time.monotonic(), guest.get(0, COUNT),
            statistic(guest, 'bytes') if guest.has_device else 0)


def cpu_used(started, daemon):
    return (sum(guest.cpu_seconds() for guest in started),
            cpu_seconds(daemon.pid) if daemon else 0)


def stop(started):
    """Stop the guests; return how many calls failed. No call may be lost."""
    failed = 0
    for guest in started:
        expect(guest.qemu.is_running(), guest.log())
        guest.qemu.cmd('stop')
        expect(not guest.get(0, DAMAGE),
               'a call changed registers that it must not')
        if guest.has_device:
            failed += check_guest(guest, statistic(guest, 'bytes'))
    return failed


def measure(started, seconds, daemon=None):
    """Have all guests call at the same time, for so many seconds."""
    opcode = H_RANDOM if started[0].has_device else H_UNASSIGNED
    for guest in started:
        guest.call(FOR_EVER, opcode)
    time.sleep(0.5)     # The start is not measured.
    before = cpu_used(started, daemon), list(map(look, started))
    time.sleep(seconds)
    after = cpu_used(started, daemon), list(map(look, started))
    cpu, daemon_cpu = (b - a for a, b in zip(before[0], after[0]))
    times, calls, got = zip(*([b - a for a, b in zip(*pair)]
                              for pair in zip(before[1], after[1])))
    return {'calls': calls, 'bytes': got,
            'rates': [(8 * count if opcode == H_UNASSIGNED else size) / taken
                      for taken, count, size in zip(times, calls, got)],
            'failed_calls': stop(started),
            'cpu_ns_per_call': cpu * 1e9 / max(sum(calls), 1),
            'daemon_ns_per_byte': daemon_cpu * 1e9 / max(sum(got), 1)}


def run_all(directory, number, seconds):
    """Measure each case with new machines, so that no case has warm caches."""
    def case(name, backend, *args, daemon=None, **properties):
        print(f'{number} guests: {name}', flush=True)
        with guests(directory, number, backend, *args,
                    **properties) as started:
            found[name] = measure(started, seconds, daemon)

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
            f"| {case['failed_calls']:,} | {case['cpu_ns_per_call']:,.0f} ns |")


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
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results')
    args = parser.parse_args()
    if not 2 <= args.guests <= 500:
        parser.error('--guests: use 2 to 500')
    if args.seconds < 1:
        parser.error('--seconds: use 1 or more')
    with record.measuring() as directory:
        found = run_all(directory, args.guests, args.seconds)
    record.write(args.out, 'many', record.environment(),
                 {'guests': args.guests, 'cases': found},
                 table(args.guests, args.seconds, found))


if __name__ == '__main__':
    main()
