#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Test the bytes of /dev/hwrng in a Linux guest.

They must be the bytes of the source, and are compared with random bytes of the
host by statistical tests.
"""

import argparse
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from sources import numbers  # noqa: E402
from testlib import results  # noqa: E402
from testlib.linux import Guest, linux_args  # noqa: E402
from testlib.machine import machine, spapr_rng, statistic  # noqa: E402
from testlib.results import expect  # noqa: E402

MB = 10 ** 6
URANDOM = Path('/dev/urandom')
TOOLS = {'rngtest': 'rng-tools-debian', 'dieharder': 'dieharder'}

# The most words that the guest's kernel takes for itself between two reads of
# the guest: sometimes one for its thread that reads the device, and four when
# it reseeds its own generator.
KERNEL_WORDS = 5

# Of 10,000 blocks of 20,000 random bits, FIPS 140-2 rejects about 8, which its
# limits imply: 1 for monobit, 1 for poker, 3 for runs and 3 for long runs.
FIPS_RATE = 8e-4

# dieharder's own limits: a p-value below 1e-6 or above 1 - 1e-6 is a failure;
# one below 0.005 or above 0.995 is weak.
WEAK_RATE = 2 * (0.005 - 1e-6)
FAILED_RATE = 2 * 1e-6

# The tests that dieharder lists as good, and that do not read a file of 1 GB
# twice: number, tuple, and how many MB the test reads. Test 100, STS monobit,
# is missing, because test 102 contains it.
DIEHARDER = [
    (0, 0, 16), (1, 0, 401), (2, 0, 512), (3, 0, 240), (4, 0, 105),
    (8, 0, 26), (9, 0, 512), (10, 0, 10), (11, 0, 7), (12, 0, 5),
    (13, 0, 950), (15, 0, 40), (16, 0, 560), (101, 0, 40), (102, 0, 40),
    (200, 8, 641), (201, 2, 80), (201, 5, 200), (202, 2, 80), (202, 5, 200),
    (203, 0, 400), (204, 0, 40)]


def draw(directory, source, megabytes, *args):
    """
    Boot Linux, and copy /dev/hwrng to a disk.

    Returns the disk's file, and how many bytes the guest got by the device's
    statistics.
    """
    disk = directory / 'disk'
    with open(disk, 'wb') as file:
        file.truncate(megabytes * MB + -megabytes * MB % 512)
    vm = machine(directory, *linux_args('6.1', directory),
                 *spapr_rng(f'rng-random,filename={source}'),
                 '-drive', f'if=none,id=disk,format=raw,file={disk}',
                 '-device', 'virtio-blk-pci,drive=disk', *args)
    try:
        guest = Guest(vm)
        lines, status = guest.run(
            'modprobe virtio_pci && modprobe virtio_blk && dd if=/dev/hwrng '
            f'of=/dev/vda bs={MB} count={megabytes} iflag=fullblock '
            'conv=fsync', timeout=60 + 5 * megabytes)
        expect(status == 0, '\n'.join(['the guest failed:', *lines]))
        vm.cmd('stop')
        given = statistic(guest, 'bytes')
        guest.quit()
    finally:
        vm.shutdown(hard=True)
    os.truncate(disk, megabytes * MB)
    return disk, given


def skipped(words):
    """
    Check that words are the numbers of the source, without a few at a time.

    The kernel takes the missing words. Returns how many are missing.
    """
    count, due = 0, words[0]
    for i, word in enumerate(words):
        expect(due <= word <= due + KERNEL_WORDS,
               f'word {i} of /dev/hwrng is {word}, not {due}')
        count += word - due
        due = word + 1
    return count


def check_numbers(directory, megabytes):
    """Check that the guest reads the words of a source that counts."""
    log = directory / 'trace'
    with numbers(directory) as fifo:
        disk, given = draw(directory, fifo, megabytes,
                           # The health tests reject numbers that count.
                           '-global', 'spapr-rng.health-test=off',
                           '-trace', 'spapr_rng_call', '-D', str(log))
    count = megabytes * MB // 8
    words = struct.unpack(f'<{count}Q', disk.read_bytes())
    meanwhile = skipped(words)
    with open(log, encoding='ascii') as lines:
        calls = sum(line.startswith('spapr_rng_call') for line in lines)
    # The words that are missing in the file went to calls of the kernel.
    expect(calls * 8 == given, f'the device read {given} bytes for the guest, '
           f'and gave it {calls * 8}')
    return {'megabytes': megabytes, 'words': count, 'wrong': 0,
            'calls': calls, 'kernel_before': words[0] - 1,
            'kernel_meanwhile': meanwhile, 'kernel_after': calls - words[-1]}


def rngtest(path):
    """The number of blocks, and of failures by test."""
    with open(path, 'rb') as file:
        done = subprocess.run(['rngtest'], stdin=file, capture_output=True,
                              text=True, check=False)
    counts = {name.lower(): int(count) for name, count in re.findall(
        r'^rngtest: FIPS 140-2(?:\(2001-10-10\))? ([A-Za-z ]+): (\d+)$',
        done.stderr, re.M)}
    expect(done.returncode in (0, 1) and 'failures' in counts,
           f'rngtest: {done.stderr}')
    counts['blocks'] = counts.pop('successes') + counts['failures']
    return counts


def dieharder(path, megabytes):
    """Run the tests that the file is long enough for, each from its start."""
    found = []
    for number, size, _ in (test for test in DIEHARDER
                            if test[2] <= megabytes):
        command = ['dieharder', '-g', '200', '-d', str(number),
                   '-n', str(size), '-c', ',']
        for field in ('test_name', 'ntuple', 'pvalues', 'assessment'):
            command += ['-D', field]
        with open(path, 'rb') as file:
            done = subprocess.run(command, stdin=file, capture_output=True,
                                  text=True, check=True)
        lines = [line.replace(' ', '').split(',')
                 for line in done.stdout.splitlines()]
        # Some tests, such as squeeze and craps, read until they have enough
        # events. If data is not random, that may be more than the file has.
        expect(lines, f'dieharder, test {number}: {done.stderr}')
        found += [{'test': name, 'tuple': int(ntuple), 'p': float(p),
                   'assessment': assessment}
                  for name, ntuple, p, assessment in lines]
    return found


def test_both(guest, host, megabytes):
    """Test both files at the same time, as each test keeps one core busy."""
    def statistics(path):
        return {'rngtest': rngtest(path),
                'dieharder': dieharder(path, megabytes)}

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(('guest', 'host'), pool.map(statistics,
                                                    (guest, host))))


def fips_lines(guest, host):
    due = guest['blocks'] * FIPS_RATE
    expected = {'failures': f'{due:,.3g} ± {math.sqrt(due):,.2g}'}
    return [f"| rngtest: blocks of 20,000 bits | {guest['blocks']:,} "
            f"| {host['blocks']:,} | |"] + [
            f'| FIPS 140-2 {name} | {guest[name]:,} | {host[name]:,} | '
            f"{expected.get(name, '')} |"
            for name in guest if name != 'blocks']


def dieharder_lines(guest, host):
    lines = [f'| dieharder: p-values | {len(guest)} | {len(host)} | |']
    for name, rate in (('passed', 1 - WEAK_RATE - FAILED_RATE),
                       ('weak', WEAK_RATE), ('failed', FAILED_RATE)):
        count = [sum(test['assessment'] == name.upper() for test in side)
                 for side in (guest, host)]
        lines.append(f'| {name} | {count[0]} | {count[1]} | '
                     f'{len(guest) * rate:.3g} |')
    return lines + ['', '| dieharder | tuple | p, guest | p, host |',
                    '| --- | --- | --- | --- |'] + [
                    f"| {one['test']} | {one['tuple']} | {one['p']:.4f} | "
                    f"{other['p']:.4f} |" for one, other in zip(guest, host)]


def table(exact, megabytes, found):
    """The lines of quality.md."""
    fips, tests = [[found[who][tool] for who in ('guest', 'host')]
                   for tool in ('rngtest', 'dieharder')]
    return [
        f"The source counts, and the guest copies {exact['megabytes']} MB of "
        f"/dev/hwrng: {exact['words']:,} words, {exact['wrong']} wrong, lost "
        'or repeated. The other '
        f"{exact['calls'] - exact['words']} of {exact['calls']:,} calls were "
        "the kernel's own.", '',
        f'{megabytes:,} MB of each; a good source is expected to fail as '
        'often as the last column says. Only the comparison above can fail '
        'this command. The p-values of one test hang together, so that its '
        'weak ones come in groups.', '',
        "| | guest's /dev/hwrng | host's /dev/urandom | expected |",
        '| --- | --- | --- | --- |',
        *fips_lines(*fips), *dieharder_lines(*tests)]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--megabytes', type=int, default=1000,
                        help='how much to test for quality (default: 1000)')
    parser.add_argument('--exact', type=int, default=16, metavar='MEGABYTES',
                        help='how much to compare with the source, bit by bit '
                        '(default: 16)')
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results')
    args = parser.parse_args()
    least = min(test[2] for test in DIEHARDER)
    if args.megabytes < least:
        parser.error(f'--megabytes: use {least} or more, which is what the '
                     'shortest test takes')
    if args.exact < 1:
        parser.error('--exact: use 1 or more')
    for tool, package in TOOLS.items():
        if not shutil.which(tool):
            sys.exit(f'quality: there is no {tool}: run "apt-get install '
                     f'{package}"')
    results.need_linux()
    return args


def main():
    args = arguments()
    with results.measuring() as directory:
        for part in ('exact', 'guest'):
            (directory / part).mkdir()
        exact = check_numbers(directory / 'exact', args.exact)
        guest, _ = draw(directory / 'guest', URANDOM, args.megabytes)
        host = directory / 'host'
        with open(URANDOM, 'rb') as source, open(host, 'wb') as copy:
            for _ in range(args.megabytes):
                copy.write(source.read(MB))
        print('testing', flush=True)
        found = test_both(guest, host, args.megabytes)
    results.write(args.out, 'quality', results.environment(),
                  {'exact': exact, 'megabytes': args.megabytes, **found},
                  table(exact, args.megabytes, found))


if __name__ == '__main__':
    main()
