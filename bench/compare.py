#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure this spapr-rng and QEMU's own, called the peer, in turn."""

import argparse
import time

import record
import report
from machines import egd
from measure import DEVICES, QEMUS, SOURCES, Bench
from testlib.slow_source import SLOW


class Full:
    """The amount to measure; `seconds` is the time of one measurement."""
    rounds = {'bare_metal': 3, 'slow': 3, 'linux': 2}
    seconds = {'bare_metal': 1.5, 'slow': 5, 'linux': 0.8}
    cpus, pools = (1, 2, 4), (8, 16, 64, 256, 1024, 4096)
    linux_sources = SOURCES


class Quick:
    """A short run that still has each kind of measurement."""
    rounds = {'bare_metal': 1, 'slow': 1, 'linux': 1}
    seconds = {'bare_metal': 0.4, 'slow': 2, 'linux': 0.3}
    cpus, pools = (1,), (8, 4096)
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
    for kind, of_kind in found.items():
        for turn in range(plan.rounds[kind]):
            for entry in of_kind:
                keys = {key: value for key, value in entry.items()
                        if not isinstance(value, list)}
                print(f'{kind}, round {turn + 1}:', keys, flush=True)
                left = [key for key, value in entry.items()
                        if isinstance(value, list) and not any(
                            'hangs_after_s' in figures for figures in value)]
                do = getattr(bench, kind)
                for key, figures in do(plan.seconds[kind], left,
                                       **keys).items():
                    entry[key].append(figures)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true',
                        help='a minute: little, but something of everything')
    began = time.monotonic()
    with (record.measuring(parser) as (args, directory),
          egd(directory) as (_, chardev)):
        found = measure(Bench(directory, chardev),
                        Quick if args.quick else Full)
    found = {'seconds': round(time.monotonic() - began), **found}
    record.write(args.out, 'bench', found, report.markdown(found),
                 peer=record.version(QEMUS['peer']))
    report.plot(found, args.out / 'bench.svg')


main()
