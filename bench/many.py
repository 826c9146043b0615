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
POLL = 0.1
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


def counts(started):
    return [guest.get(0, COUNT) for guest in started]


def watch(started, seconds):
    """
    Watch the calls of the guests for so many seconds.

    Returns the longest time for which each guest made no call, and the longest
    time between two looks at the guests, as this process may also have to wait
    for a core.
    """
    begin = now = time.monotonic()
    last, since = counts(started), [now] * len(started)
    longest, apart = [0] * len(started), 0
    while now < begin + seconds:
        time.sleep(POLL)
        before, now = now, time.monotonic()
        apart = max(apart, now - before)
        for i, count in enumerate(counts(started)):
            if count != last[i]:
                last[i], since[i] = count, now
            longest[i] = max(longest[i], now - since[i])
    return longest, apart


def check_guest(guest, given):
    """Check that the guest got each word that the device gave."""
    timeouts, got = statistic(guest, 'timeouts'), guest.get(0, COUNT)
    # The guest may not have counted its last call yet.
    expect(0 <= given // 8 + timeouts - got <= 1,
           f'{given} bytes given and {timeouts} calls failed make {got} calls')
    return timeouts


def snapshot(started, daemon):
    """The time, the guests' calls, and the processor time used so far."""
    return {'time': time.monotonic(), 'calls': counts(started),
            'cpu': sum(guest.cpu_seconds() for guest in started),
            'daemon': cpu_seconds(daemon.pid) if daemon else 0}


def bytes_given(started):
    """For each guest, the bytes that it has got, and the time of the answer.

    On a busy host, QEMU may be slow to answer, so that each answer has its own
    time.
    """
    return [(time.monotonic(), statistic(guest, 'bytes'))
            if guest.has_device else (0, 0) for guest in started]


def in_that_time(before, after, seconds):
    return [round((b - a) / (end - begin) * seconds)
            for (begin, a), (end, b) in zip(before, after)]


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
    has_device = started[0].has_device
    for guest in started:
        guest.call(FOR_EVER, H_RANDOM if has_device else H_UNASSIGNED)
    time.sleep(0.5)     # The start is not measured.
    bytes_before, before = bytes_given(started), snapshot(started, daemon)
    longest, apart = watch(started, seconds)
    after, bytes_after = (snapshot(started, daemon),
                          bytes_given(started))
    taken, cpu, daemon_cpu = (after[what] - before[what]
                              for what in ('time', 'cpu', 'daemon'))
    calls = [b - a for a, b in zip(before['calls'], after['calls'])]
    failed = stop(started)
    got = [8 * count * has_device for count in calls]
    if failed:
        got = in_that_time(bytes_before, bytes_after, taken)
    return {'seconds': taken, 'calls': calls, 'bytes': got,
            'failed_calls': failed, 'longest_pause_s': longest,
            'looks_apart_s': apart,
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
    got, unit = case['bytes'], 'bytes/s'
    if not any(got):
        got, unit = case['calls'], 'calls/s'
    rate = statistics.median(got) / case['seconds']
    failed = case['failed_calls']
    # After a timeout, calls fail at once. Such calls are no progress.
    pause = '—' if failed else f"{max(case['longest_pause_s']):.1f} s"
    ratio = f'{max(got) / min(got):.2f}' if min(got) else 'some got nothing'
    return (f"| {name} | {rate:,.0f} {unit} | {ratio} | {pause} | {failed:,} "
            f"| {case['cpu_ns_per_call']:,.0f} ns |")


def table(number, found):
    """The lines of many.md."""
    slow = f'EGD daemon with {SHARE * number:,} bytes/s'
    names = {'none': 'no device, a hypercall that nobody implements',
             'urandom': 'rng-random on /dev/urandom', 'egd': 'EGD daemon',
             'quota': f'/dev/urandom, max-bytes={QUOTA},period=1000',
             'slow': slow, 'slow8': f'{slow}, pool-size=8'}
    return [
        f'{number} guests call at once, each as often as it can, for '
        f"{found['urandom']['seconds']:.0f} s.", '',
        '| source | a guest gets (median) | most / least | longest pause of '
        'a guest | failed calls | processor time of a call |',
        '| --- | --- | --- | --- | --- | --- |',
        *(case_line(name, found[key]) for key, name in names.items()), '',
        f'A pause of 0 means that each look, every {POLL} s (at worst after '
        f"{max(case['looks_apart_s'] for case in found.values()):.2f} s), "
        'found new calls. The first row is what the host makes of guests '
        "without the device. The EGD daemon's processor time is "
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
                  table(args.guests, found))


if __name__ == '__main__':
    main()
