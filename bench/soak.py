#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Check that nothing is lost in very many calls and migrations.

Also run the health tests on as many good words.
"""

import argparse
import ctypes
import functools
import operator
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

import record  # noqa: E402
from record import Failure, expect  # noqa: E402
from sources import numbers  # noqa: E402
from testlib import bare_metal, good_words  # noqa: E402
from testlib.hcalls import CHECK, CHECKED, FAULTS, LAST, SUM, XOR  # noqa: E402
from testlib.limits import until  # noqa: E402
from testlib.machine import machine  # noqa: E402

WARM_UP = 100000
STALL = 60  # seconds without a call after which the guest hangs
PR_SET_THP_DISABLE = 41  # prctl(2)


def start(directory, fifo, cpus, *args, **kwargs):
    # The health tests reject numbers that count.
    return bare_metal.Guest(
        functools.partial(machine, directory), bare_metal.build(directory),
        directory, f'rng-random,filename={fifo}', *args, cpus=cpus, timeout=0,
        health_test='off', **kwargs)


def use_small_pages():
    """
    Turn off huge pages for this process and its children, such as QEMU.

    QEMU asks for huge pages for translated code. A huge page that is first
    used late would look like a leak of 2 MB.
    """
    expect(ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0,
           'huge pages could not be turned off')


def anonymous_memory(vm):
    """QEMU's allocated memory in KiB, without the guest's shared memory."""
    status = Path(f'/proc/{vm.qemu.get_pid()}/status')
    for line in status.read_text(encoding='ascii').splitlines():
        if line.startswith('RssAnon:'):
            return int(line.split()[1])
    raise Failure('/proc has no RssAnon')


def of_each(vm, field):
    return [vm.get(cpu, field) for cpu in range(vm.cpus)]


def total(vm, field):
    return sum(of_each(vm, field))


def check_numbers(vm, calls):
    """Check that all vCPUs together got each number from 1 to `calls` once."""
    exclusive_or = 0
    for value in of_each(vm, XOR):
        exclusive_or ^= value
    expect(total(vm, FAULTS) == 0, 'calls failed, or numbers went back')
    expect(total(vm, CHECKED) == calls, 'calls got lost')
    expect(max(of_each(vm, LAST)) == calls and
           total(vm, SUM) % 2 ** 64 == calls * (calls + 1) // 2 % 2 ** 64 and
           exclusive_or == [calls, 1, calls + 1, 0][calls % 4],
           'numbers got lost, or came twice')


def make_calls(calls, cpus, directory):
    """Make calls, and check them; return the facts."""
    with numbers(directory) as fifo:
        vm = start(directory, fifo, cpus)
        try:
            vm.call(WARM_UP, record=CHECK)
            vm.finish(600)
            before, began = anonymous_memory(vm), time.monotonic()
            vm.call(calls // cpus - WARM_UP, record=CHECK)
            done, progress = 0, began
            while not all(map(vm.done, range(cpus))):
                time.sleep(2)
                before_that, done = done, total(vm, CHECKED)
                print(f'{done:,} of {calls:,} calls', flush=True)
                expect(vm.qemu.is_running(), vm.log())
                if done > before_that:
                    progress = time.monotonic()
                expect(time.monotonic() < progress + STALL,
                       f'no call was answered for {STALL} s')
            check_numbers(vm, calls // cpus * cpus)
            seconds = time.monotonic() - began
            after = anonymous_memory(vm)
            vm.quit()
        finally:
            vm.qemu.shutdown(hard=True)
    expect(after <= before * 1.01, f'memory grew: {before} to {after} KiB')
    return {'calls': calls // cpus * cpus, 'vcpus': cpus,
            'seconds': round(seconds), 'memory_before_kib': before,
            'memory_after_kib': after}


def migrate(migrations, cpus, directory):
    """Migrate a guest from process to process, while its vCPUs make calls."""
    state = directory / 'state'

    def until_each_has(more, before):
        for cpu in range(cpus):
            until(lambda: vm.get(cpu, CHECKED) > before[cpu] + more)

    with numbers(directory) as fifo:
        vm = start(directory, fifo, cpus)
        try:
            vm.call(2 ** 40, record=CHECK)
            for i in range(1, migrations + 1):
                until_each_has(1000, of_each(vm, CHECKED))
                vm.save(state)
                vm.quit()
                saved, last = of_each(vm, CHECKED), of_each(vm, LAST)
                vm = start(directory, fifo, cpus, '-incoming', 'defer',
                           ram=vm.ram)
                expect(of_each(vm, CHECKED) == saved, 'the guest ran on')
                vm.restore(state)
                until_each_has(0, saved)
                if i % 10 == 0 or i == migrations:
                    print(f'{i} of {migrations} migrations, '
                          f'{sum(saved):,} calls', flush=True)
                expect(total(vm, FAULTS) == 0 and
                       all(map(operator.gt, of_each(vm, LAST), last)),
                       'a call failed, or a number came twice')
            calls = total(vm, CHECKED)
            vm.quit()
        finally:
            vm.qemu.shutdown(hard=True)
    return {'migrations': migrations, 'calls': calls, 'failed_or_repeated': 0}


def test_words(words, directory):
    """Check that good words raise no alarm; return the facts."""
    began = time.monotonic()
    done = good_words.test(words, '/dev/urandom', directory)
    expect(done.returncode == 0, f'the health tests: {done.stderr.strip()}')
    seconds = time.monotonic() - began
    print(f'{words:,} words tested', flush=True)
    return {'words': words, 'alarms': 0, 'seconds': round(seconds)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--calls', type=int, default=10 ** 9)
    parser.add_argument('--vcpus', type=int, default=4)
    parser.add_argument('--migrations', type=int, default=100)
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results')
    args = parser.parse_args()
    if args.calls < args.vcpus * 2 * WARM_UP:
        parser.error(f'--calls: use {args.vcpus * 2 * WARM_UP} or more')
    return args


def main():
    args = arguments()
    with record.measuring() as directory:
        for part in ('calls', 'migrations'):
            (directory / part).mkdir()
        use_small_pages()
        calls = make_calls(args.calls, args.vcpus, directory / 'calls')
        moves = migrate(args.migrations, args.vcpus, directory / 'migrations')
        words = test_words(args.calls, directory)
    record.write(args.out, 'soak', record.environment(), {
        'calls': calls, 'moves': moves, 'health': words}, [
        '| | |', '| --- | --- |',
        f"| calls, by {calls['vcpus']} vCPUs | {calls['calls']:,} |",
        '| numbers lost, repeated or out of order | 0 |',
        f"| time | {calls['seconds']} s |",
        f"| QEMU's memory before and after | {calls['memory_before_kib']:,} "
        f"and {calls['memory_after_kib']:,} KiB |",
        f"| migrations under load | {moves['migrations']} |",
        f"| calls meanwhile | {moves['calls']:,} |",
        '| calls failed or lost, numbers repeated | 0 |',
        '| words of /dev/urandom through the health tests | '
        f"{words['words']:,} |",
        '| alarms | 0 |'])


main()
