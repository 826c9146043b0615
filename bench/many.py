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

import extrapolate  # noqa: E402
from sources import egd  # noqa: E402
from testlib import bare_metal, results  # noqa: E402
from testlib.hcalls import COUNT, DAMAGE, H_RANDOM, H_UNASSIGNED  # noqa: E402
from testlib.linux import Guest, linux_args  # noqa: E402
from testlib.machine import (URANDOM, cpu_seconds, machine,  # noqa: E402
                             spapr_rng, statistic)
from testlib.results import expect  # noqa: E402

FOR_EVER = 2 ** 40
POLL = 0.1
QUOTA = 1000    # bytes per second
# The bytes per second of the slow source for each guest, as if 1,000 guests
# shared 100,000 bytes/s
SHARE = 100

MARKS = '<!-- bench/many.py -->', '<!-- end of bench/many.py -->'


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


def memory(guest):
    """QEMU's memory in KiB: RssAnon, which it has allocated, and Pss."""
    process = Path(f'/proc/{guest.qemu.get_pid()}')
    found = {}
    for file in ('status', 'smaps_rollup'):
        for line in (process / file).read_text().splitlines():
            name, _, value = line.partition(':')
            if name in ('RssAnon', 'Pss'):
                found[name] = int(value.split()[0])
    return found


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
            'daemon_ns_per_byte': daemon_cpu * 1e9 / max(sum(got), 1),
            'memory_kib': [memory(guest) for guest in started]}


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
            case(name, 'rng-egd,chardev=egd', *args, daemon=daemon,
                 **properties)
    return found


def linux_need(directory, seconds):
    """How many bytes a Linux guest takes at boot, and when it is idle."""
    print('a Linux guest', flush=True)
    vm = machine(directory, *linux_args('6.1', directory), *spapr_rng())
    try:
        guest = Guest(vm)
        boot = statistic(guest, 'bytes')
        time.sleep(seconds)
        idle = statistic(guest, 'bytes') - boot
        guest.quit()
    finally:
        vm.shutdown(hard=True)
    return {'boot_bytes': boot, 'idle_bytes': idle, 'idle_seconds': seconds}


def memory_kib(found, field):
    """The memory of one device: the median, and an upper limit."""
    without, with_it = ([sizes[field] for sizes in found[name]['memory_kib']]
                        for name in ('none', 'urandom'))
    return (round(statistics.median(with_it) - statistics.median(without)),
            max(with_it) - min(without))


def summary(found, need):
    """The facts that extrapolate.py computes with."""
    usual, most = memory_kib(found, 'RssAnon')
    pss = memory_kib(found, 'Pss')[0]
    return {'boot_bytes': need['boot_bytes'],
            'idle_bytes_per_s': need['idle_bytes'] / need['idle_seconds'],
            'urandom_ns': found['urandom']['cpu_ns_per_call'],
            'daemon_ns_per_byte': found['egd']['daemon_ns_per_byte'],
            'quota': QUOTA, 'quota_ns': found['quota']['cpu_ns_per_call'],
            'egd_ns': found['egd']['cpu_ns_per_call'],
            'memory_kib': {'median': usual, 'greatest': most, 'pss': pss}}


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


def kib(value):
    return f'{value} KiB' if value > 0 else 'too little to be seen'


def table(number, found, need, facts):
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
        'without the device.', '',
        '| | |', '| --- | --- |',
        "| EGD daemon's processor time | "
        f"{facts['daemon_ns_per_byte']:.1f} ns a byte |",
        '| memory of a device and its backend: RssAnon with them less without,'
        f" of the median guests | {kib(facts['memory_kib']['median'])} |",
        '| — of the guest with most, less that with least | '
        f"{kib(facts['memory_kib']['greatest'])} |",
        '| — PSS, of the median guests | '
        f"{kib(facts['memory_kib']['pss'])} |",
        f"| a Linux guest takes until it has booted | {need['boot_bytes']} "
        'bytes |',
        f"| and in the {need['idle_seconds']} s after | {need['idle_bytes']} "
        'bytes |', '', *extrapolate.lines_of(facts)]


def put_into(page, lines):
    """Replace the lines between the marks of the page."""
    head, _, rest = page.read_text().partition(MARKS[0])
    _, _, tail = rest.partition(MARKS[1])
    page.write_text('\n'.join([head + MARKS[0], '', *lines, '',
                               MARKS[1] + tail]))


def check_page(parser, page):
    try:
        text = page.read_text()
    except OSError as error:
        parser.error(f'--page: {error}')
    if not 0 <= text.find(MARKS[0]) < text.find(MARKS[1]):
        parser.error(f'--page: {page} has no "{MARKS[0]}" and "{MARKS[1]}"')


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--guests', type=int, default=20)
    parser.add_argument('--seconds', type=int, default=20,
                        help='how long they call, for each source '
                        '(default: 20)')
    parser.add_argument('--idle', type=int, default=120, metavar='SECONDS',
                        help='how long to watch an idle Linux guest '
                        '(default: 120)')
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results')
    parser.add_argument('--page', type=Path, help='a page to update: the '
                        'tables go between its marks')
    args = parser.parse_args()
    if args.page:
        check_page(parser, args.page)
    if not 2 <= args.guests <= 500:
        parser.error('--guests: use 2 to 500')
    for name in ('seconds', 'idle'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}: use 1 or more')
    results.need_linux()
    return args


def main():
    args = arguments()
    with results.measuring() as directory:
        need = linux_need(directory, args.idle)
        found = run_all(directory, args.guests, args.seconds)
    facts = summary(found, need)
    lines = table(args.guests, found, need, facts)
    results.write(args.out, 'many', results.environment(),
                  {'guests': args.guests, 'linux': need, 'cases': found,
                   'facts': facts}, lines)
    if args.page:
        put_into(args.page, lines)


if __name__ == '__main__':
    main()
