#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure this spapr-rng and QEMU's own, called the peer, in turn."""

import argparse
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

import record  # noqa: E402
import report  # noqa: E402
from machines import egd  # noqa: E402
from measure import DEVICES, QEMUS, SOURCES, Bench, hung  # noqa: E402
from testlib.slow_source import SLOW  # noqa: E402


class Full:
    """The amount to measure; `seconds` is the time of one measurement."""
    rounds, seconds = 3, 1.5
    slow_seconds = 5
    cpus, pools = (1, 2, 4), (8, 16, 64, 256, 1024, 4096)
    linux_rounds, linux_seconds = 2, 0.8
    linux_sources = SOURCES


class Quick(Full):
    """A short run that still has each kind of measurement."""
    rounds, seconds = 1, 0.4
    slow_seconds = 2
    cpus, pools = (1,), (8, 4096)
    linux_rounds, linux_seconds = 1, 0.3
    linux_sources = ('rng-random', 'rng-egd')


def entries(plan):
    """The entries of the results, which have no figures yet."""
    def bare(cpus=1, **keys):
        return {**keys, 'vcpus': cpus, 'null': [], 'random': []}

    return {
        'bare_metal': [
            *(bare(cpus, qemu=qemu, source=source) for source in SOURCES
              for cpus in plan.cpus for qemu in QEMUS),
            *(bare(qemu='ours', source=source, pool_size=size)
              for source in SOURCES for size in plan.pools)],
        'slow': [
            {'qemu': qemu, 'chunk': chunk, 'chunk_ms': ms, 'slow': []}
            for chunk, ms in SLOW.values() for qemu in QEMUS],
        'linux': [
            {'qemu': qemu, 'source': source, 'vcpus': cpus,
             **{device: [] for device in DEVICES}}
            for source in plan.linux_sources for cpus in plan.cpus
            for qemu in QEMUS]}


def measure(bench, plan):
    """Make all measurements in turn; return the results."""
    found = entries(plan)
    for kind, do, seconds, rounds in (
            ('bare_metal', bench.bare, plan.seconds, plan.rounds),
            ('slow', bench.slow, plan.slow_seconds, plan.rounds),
            ('linux', bench.linux, plan.linux_seconds, plan.linux_rounds)):
        for turn in range(rounds):
            for entry in found[kind]:
                keys = {key: value for key, value in entry.items()
                        if not isinstance(value, list)}
                print(f'{kind}, round {turn + 1}:', keys, flush=True)
                left = [key for key, value in entry.items()
                        if isinstance(value, list) and not hung(value)]
                for key, figures in do(seconds, left, **keys).items():
                    entry[key].append(figures)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true',
                        help='a minute: little, but something of everything')
    args = record.parse(parser)
    began = time.monotonic()
    with record.measuring() as directory, egd(directory) as (_, chardev):
        found = measure(Bench(directory, chardev),
                        Quick if args.quick else Full)
    found = {'seconds': round(time.monotonic() - began), **found}
    record.write(args.out, 'bench', {
        **record.environment(), 'peer': record.version(QEMUS['peer'])},
        found, report.markdown(found))
    report.plot(found, args.out / 'bench.svg')


main()
