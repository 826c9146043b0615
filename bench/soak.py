#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make very many calls, migrations and health tests; none may go wrong."""

import argparse
import functools
import itertools
import multiprocessing
import operator
import re
import struct
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import record
from machines import guest
from record import expect
from testlib import OUT, TOP
from testlib.fifo import Fifo
from testlib.hcalls import CHECK, CHECKED, FAULTS, LAST, SUM, XOR
from testlib.limits import until
from testlib.programs import compile_c

VCPUS = 4
BATCHES = 1000  # A batch is short: one that takes HANG shows a stall.

# QEMU asks for huge pages for translated code. One of 2 MiB may be used late,
# which is no leak.
GROWTH_KIB = 4096


def count(fifo):
    """Write the numbers from 1 on as 64-bit words."""
    for first in itertools.count(1, 8192):
        fifo.write(struct.pack('>8192Q', *range(first, first + 8192)))


@contextmanager
def numbers(directory):
    """A FIFO with a process that writes numbers to it."""
    with closing(Fifo(directory)) as fifo:
        feeder = multiprocessing.get_context('fork').Process(
            target=count, args=[fifo])
        feeder.start()
        try:
            yield fifo
        finally:
            feeder.kill()


def start(directory, fifo, *args, **kwargs):
    # The health tests reject numbers that count.
    return guest(directory, fifo.backend, *args, cpus=VCPUS, timeout=0,
                 health_test='off', **kwargs)


def anonymous_memory(vm):
    """QEMU's allocated memory in KiB, without the guest's shared memory."""
    status = Path(f'/proc/{vm.qemu.get_pid()}/status').read_text()
    return int(re.search(r'^RssAnon:\s*(\d+)', status, re.M)[1])


def of_each(vm, field):
    return [vm.get(cpu, field) for cpu in range(vm.cpus)]


def total(vm, field):
    return sum(of_each(vm, field))


def check_numbers(vm, calls):
    """Check that all vCPUs together got each number from 1 to `calls` once."""
    exclusive_or = functools.reduce(operator.xor, of_each(vm, XOR))
    expect(total(vm, FAULTS) == 0, 'calls failed, or numbers went back')
    expect(total(vm, CHECKED) == calls, 'calls got lost')
    expect(max(of_each(vm, LAST)) == calls and
           total(vm, SUM) % 2 ** 64 == calls * (calls + 1) // 2 % 2 ** 64 and
           exclusive_or == [calls, 1, calls + 1, 0][calls % 4],
           'numbers got lost, or came twice')


def make_calls(calls, directory, fifo):
    """Make calls, and check them; return the facts."""
    each = calls // VCPUS // BATCHES
    calls = each * VCPUS * BATCHES
    with start(directory, fifo) as vm:
        for batch in range(BATCHES):
            vm.call(each, record=CHECK)
            vm.finish()
            if batch % 100 == 99:
                print(f'{total(vm, CHECKED):,} of {calls:,} calls', flush=True)
            if batch == BATCHES // 10:
                before, began = anonymous_memory(vm), time.monotonic()
        check_numbers(vm, calls)
        seconds = time.monotonic() - began
        after = anonymous_memory(vm)
        vm.quit()
    expect(after <= before + GROWTH_KIB,
           f'memory grew: {before} to {after} KiB')
    return {'calls': calls, 'vcpus': VCPUS, 'seconds': round(seconds),
            'memory_before_kib': before, 'memory_after_kib': after}


def migrate(migrations, directory, fifo):
    """Migrate a guest from process to process, while its vCPUs make calls."""
    state = directory / 'state'

    def until_each_has(more, before):
        for cpu in range(VCPUS):
            until(lambda: vm.get(cpu, CHECKED) > before[cpu] + more)

    with ExitStack() as machines:
        vm = machines.enter_context(start(directory, fifo))
        vm.call(2 ** 40, record=CHECK)
        for i in range(1, migrations + 1):
            until_each_has(1000, of_each(vm, CHECKED))
            vm.save(state)
            vm.quit()
            saved, last = of_each(vm, CHECKED), of_each(vm, LAST)
            vm = machines.enter_context(start(
                directory, fifo, '-incoming', 'defer', ram=vm.ram))
            expect(of_each(vm, CHECKED) == saved, 'the guest ran on')
            vm.restore(state)
            until_each_has(0, saved)
            if i % 10 == 0:
                print(f'{i} of {migrations} migrations', flush=True)
            expect(total(vm, FAULTS) == 0 and
                   all(map(operator.gt, of_each(vm, LAST), last)),
                   'a call failed, or a number came twice')
        calls = total(vm, CHECKED)
        vm.quit()
    return {'migrations': migrations, 'calls': calls, 'failed_or_repeated': 0}


def test_words(words, directory):
    """Check that good words raise no alarm; return the facts."""
    began = time.monotonic()
    tests, = OUT.glob('native/*/hw_ppc_spapr_rng_health.c.o')
    program = compile_c('bench/good-words.c', directory, tests,
                        '-I', TOP / 'include')
    done = subprocess.run(f'head -c {8 * words} /dev/urandom | {program}',
                          shell=True, stderr=subprocess.PIPE, text=True,
                          check=False)
    expect(done.returncode == 0, f'the health tests: {done.stderr.strip()}')
    seconds = time.monotonic() - began
    print(f'{words:,} words tested', flush=True)
    return {'words': words, 'alarms': 0, 'seconds': round(seconds)}


def table(calls, moves, health):
    """The lines of soak.md."""
    return ['| | |', '| --- | --- |',
            f"| calls, by {calls['vcpus']} vCPUs | {calls['calls']:,} |",
            '| numbers lost, repeated or out of order | 0 |',
            f"| time | {calls['seconds']} s |",
            "| QEMU's memory before and after | "
            f"{calls['memory_before_kib']:,} "
            f"and {calls['memory_after_kib']:,} KiB |",
            f"| migrations under load | {moves['migrations']} |",
            f"| calls meanwhile | {moves['calls']:,} |",
            '| calls failed or lost, numbers repeated | 0 |',
            '| words of /dev/urandom through the health tests | '
            f"{health['words']:,} |",
            '| alarms | 0 |']


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--calls', type=int, default=10 ** 9)
    parser.add_argument('--migrations', type=int, default=100)
    with (record.measuring(parser) as (args, directory),
          numbers(directory) as fifo):
        results = {'calls': make_calls(args.calls, directory, fifo),
                   'moves': migrate(args.migrations, directory, fifo),
                   'health': test_words(args.calls, directory)}
    record.write(args.out, 'soak', results, table(**results))


main()
