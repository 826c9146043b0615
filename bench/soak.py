#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Check that nothing is lost in very many calls and migrations.

Also run the health tests on as many good words.
"""

import argparse
import functools
import operator
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import record  # noqa: E402
from machines import guest, numbers, running  # noqa: E402
from record import expect  # noqa: E402
from testlib import OUT, TOP  # noqa: E402
from testlib.hcalls import CHECK, CHECKED, FAULTS, LAST, SUM, XOR  # noqa: E402
from testlib.limits import until  # noqa: E402
from testlib.programs import compile_c  # noqa: E402

VCPUS = 4
STALL = 60  # seconds without a call after which the guest hangs

# QEMU asks for huge pages for translated code. One of 2 MiB may be used late,
# which is no leak.
GROWTH_KIB = 4096


def start(directory, fifo, *args, **kwargs):
    # The health tests reject numbers that count.
    return guest(directory, f'rng-random,filename={fifo}', *args, cpus=VCPUS,
                 timeout=0, health_test='off', **kwargs)


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


def make_calls(calls, directory):
    """Make calls, and check them; return the facts."""
    each = calls // VCPUS
    with numbers(directory) as fifo, running(start(directory, fifo)) as vm:
        vm.call(each // 10, record=CHECK)
        vm.finish(600)
        before, began = anonymous_memory(vm), time.monotonic()
        vm.call(each - each // 10, record=CHECK)
        done, progress = 0, began
        while not all(map(vm.done, range(VCPUS))):
            time.sleep(2)
            before_that, done = done, total(vm, CHECKED)
            print(f'{done:,} of {calls:,} calls', flush=True)
            expect(vm.qemu.is_running(), vm.log())
            if done > before_that:
                progress = time.monotonic()
            expect(time.monotonic() < progress + STALL,
                   f'no call was answered for {STALL} s')
        check_numbers(vm, each * VCPUS)
        seconds = time.monotonic() - began
        after = anonymous_memory(vm)
        vm.quit()
    expect(after <= before + GROWTH_KIB,
           f'memory grew: {before} to {after} KiB')
    return {'calls': each * VCPUS, 'vcpus': VCPUS,
            'seconds': round(seconds), 'memory_before_kib': before,
            'memory_after_kib': after}


def migrate(migrations, directory):
    """Migrate a guest from process to process, while its vCPUs make calls."""
    state = directory / 'state'

    def until_each_has(more, before):
        for cpu in range(VCPUS):
            until(lambda: vm.get(cpu, CHECKED) > before[cpu] + more)

    with numbers(directory) as fifo:
        vm = start(directory, fifo)
        try:
            vm.call(2 ** 40, record=CHECK)
            for i in range(1, migrations + 1):
                until_each_has(1000, of_each(vm, CHECKED))
                vm.save(state)
                vm.quit()
                saved, last = of_each(vm, CHECKED), of_each(vm, LAST)
                vm = start(directory, fifo, '-incoming', 'defer', ram=vm.ram)
                expect(of_each(vm, CHECKED) == saved, 'the guest ran on')
                vm.restore(state)
                until_each_has(0, saved)
                if i % 10 == 0:
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
    tests, = OUT.glob('native/*/hw_ppc_spapr_rng_health.c.o')
    program = compile_c('bench/good-words.c', directory, tests,
                        '-I', TOP / 'include')
    with subprocess.Popen(['head', '-c', str(8 * words), '/dev/urandom'],
                          stdout=subprocess.PIPE) as head:
        done = subprocess.run([program], stdin=head.stdout, text=True,
                              stderr=subprocess.PIPE, check=False)
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
    args = record.parse(parser)
    with record.measuring() as directory:
        results = {'calls': make_calls(args.calls, directory),
                   'moves': migrate(args.migrations, directory),
                   'health': test_words(args.calls, directory)}
    record.write(args.out, 'soak', record.environment(), results,
                 table(**results))


main()
