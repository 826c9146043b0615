#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure this spapr-rng and QEMU's own, called the peer, in turn."""

import argparse
import signal
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

import measure  # noqa: E402
import record  # noqa: E402
import report  # noqa: E402
from machines import DEVICES, QEMUS, SOURCES  # noqa: E402
from testlib import bare_metal, slow_source  # noqa: E402


class Full:
    """The amount to measure; `seconds` is the time of one measurement."""
    rounds, seconds = 3, 1.5
    slow_seconds = 5
    cpus, pools = (1, 2, 4), (8, 16, 64, 256, 1024, 4096)
    linux_rounds, linux_seconds = 2, 0.8
    linux_cpus, linux_sources = (1, 2, 4), SOURCES
    boots, idle_seconds, idle_settle = 5, 30, 5


class Quick(Full):
    """A short run that still has each kind of measurement."""
    rounds, seconds = 1, 0.4
    slow_seconds = 2
    cpus, pools = (1,), (8, 4096)
    linux_rounds, linux_seconds = 1, 0.3
    linux_cpus, linux_sources = (1,), ('rng-random', 'rng-egd')
    boots, idle_seconds, idle_settle = 1, 3, 1


def hung(rounds):
    return any('hangs_after_s' in one for one in rounds)


def bare_steps(plan, image, found):
    """
    The measurements of bare-metal guests, which append results to `found`.

    Yields for each step its name, its expected seconds, and its function.
    """
    which = [(source, cpus, 0) for source in SOURCES for cpus in plan.cpus]
    which += [(source, 1, pool) for source in SOURCES for pool in plan.pools]
    for source, cpus, pool in which:
        for qemu in ['ours'] if pool else QEMUS:
            found.append({'qemu': qemu, 'source': source, 'vcpus': cpus,
                          **({'pool_size': pool} if pool else {}),
                          'null': [], 'random': []})

    def do(entry):
        if hung(entry['random']):
            return
        result = measure.bare(
            plan.seconds, image, entry['qemu'], entry['source'],
            entry['vcpus'], entry.get('pool_size'))
        for call, figures in result.items():
            entry[call].append(figures)

    for turn in range(plan.rounds):
        for entry in found:
            pool = f", pool-size={entry['pool_size']}" \
                if 'pool_size' in entry else ''
            yield (f"bare metal, {entry['source']}{pool}, {entry['vcpus']} "
                   f"vCPUs, {entry['qemu']}, round {turn + 1}",
                   plan.seconds + 0.6, lambda entry=entry: do(entry))


def slow_steps(plan, image, library, found):
    """The measurements of slow sources; like bare_steps()."""
    for chunk, ms in slow_source.SLOW.values():
        for qemu in QEMUS:
            found.append({'qemu': qemu, 'chunk': chunk, 'chunk_ms': ms,
                          'slow': []})

    def do(entry):
        entry['slow'].append(measure.slow(
            plan.slow_seconds, image, library, entry['qemu'], entry['chunk'],
            entry['chunk_ms']))

    for turn in range(plan.rounds):
        for entry in found:
            yield (f"bare metal, {entry['chunk']} bytes each "
                   f"{entry['chunk_ms']} ms, {entry['qemu']}, "
                   f"round {turn + 1}", plan.slow_seconds + 2,
                   lambda entry=entry: do(entry))


def linux_steps(plan, program, found):
    """The measurements of /dev/hwrng in Linux; like bare_steps()."""
    for source in plan.linux_sources:
        for cpus in plan.linux_cpus:
            for qemu in QEMUS:
                found.append({'qemu': qemu, 'source': source, 'vcpus': cpus,
                              **{device: [] for device in DEVICES}})

    def do(entry):
        result = measure.linux(
            plan.linux_seconds, program, entry['qemu'], entry['source'],
            entry['vcpus'],
            devices=[d for d in DEVICES if not hung(entry[d])])
        for device, figures in result.items():
            entry[device].append(figures)

    for turn in range(plan.linux_rounds):
        for entry in found:
            yield (f"Linux, {entry['source']}, {entry['vcpus']} vCPUs, "
                   f"{entry['qemu']}, round {turn + 1}",
                   4 * plan.linux_seconds + 5, lambda entry=entry: do(entry))


def other_steps(plan, boots, idle):
    """The measurements of boots and of idle guests; like bare_steps()."""
    for turn in range(plan.boots):
        for who in ('none', *QEMUS):
            def do(who=who):
                boots.setdefault(who, []).append(measure.boot(who))
            yield f'boot of Linux, {who}, round {turn + 1}', 4, do
    yield ('an idle Linux', plan.idle_seconds + plan.idle_settle + 8,
           lambda: idle.update(measure.idle(plan.idle_seconds,
                                            plan.idle_settle)))


def do_all(steps):
    """Do the steps, printing the time left; return the seconds taken."""
    steps = list(steps)
    total = sum(seconds for _, seconds, _ in steps)
    began, planned = time.monotonic(), 0
    for number, (what, seconds, do) in enumerate(steps, 1):
        pace = (time.monotonic() - began + 10) / (planned + 10)
        left = round((total - planned) * pace)
        print(f'{number}/{len(steps)}, {left // 60}:{left % 60:02} left: '
              f'{what}', flush=True)
        do()
        planned += seconds
    return round(time.monotonic() - began)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true',
                        help='a minute: little, but something of everything')
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results',
                        help='the directory for bench.json, .md and .svg')
    args = parser.parse_args()
    if args.out.exists() and not args.out.is_dir():
        parser.error(f'--out: {args.out} is not a directory')
    for qemu in QEMUS.values():
        if not (qemu / 'qemu-system-ppc64').exists():
            parser.error(f"there is no QEMU in {qemu}: run 'make bench'")
    record.need_linux()
    return args


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('bench: ended'))
    plan = Quick if args.quick else Full
    bare, slow, linux, boots, idle = [], [], [], {}, {}
    with record.measuring() as directory:
        image = bare_metal.build(directory)
        library = slow_source.build(directory)
        program = measure.build_reads(directory)
        seconds = do_all([*bare_steps(plan, image, bare),
                          *slow_steps(plan, image, library, slow),
                          *linux_steps(plan, program, linux),
                          *other_steps(plan, boots, idle)])
    where, peers = [record.environment(qemu / 'qemu-system-ppc64')
                    for qemu in QEMUS.values()]
    found = {'seconds': seconds, 'bare_metal': bare, 'slow': slow,
             'linux': linux, 'boot_s': boots, 'idle': idle}
    report.add_best(found)
    record.write(args.out, 'bench', {**where, 'peer': peers['qemu']}, found,
                  report.markdown(found))
    report.plot(found, args.out / 'bench.svg')
    print(f'{seconds // 60}:{seconds % 60:02}; see {args.out}/bench.md')


main()
