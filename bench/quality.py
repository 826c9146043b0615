#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the bytes of /dev/hwrng in a Linux guest with those of its source."""

import argparse
import os
import struct
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

import record  # noqa: E402
from record import expect  # noqa: E402
from sources import numbers  # noqa: E402
from testlib.linux import Guest, linux_args  # noqa: E402
from testlib.machine import machine, spapr_rng, statistic  # noqa: E402

MB = 10 ** 6

# The most words that the guest's kernel takes for itself between two reads of
# the guest: sometimes one for its thread that reads the device, and four when
# it reseeds its own generator.
KERNEL_WORDS = 5


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
                 *spapr_rng(f'rng-random,filename={source}', health_test='off'),
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
                           '-trace', 'spapr_rng_call', '-D', str(log))
    count = megabytes * MB // 8
    words = struct.unpack(f'<{count}Q', disk.read_bytes())
    meanwhile = skipped(words)
    with open(log, encoding='ascii') as lines:
        calls = sum(line.startswith('spapr_rng_call') for line in lines)
    # The words that are missing in the file went to calls of the kernel.
    expect(calls * 8 == given, f'the device read {given} bytes for the guest, '
           f'and gave it {calls * 8}')
    return {'megabytes': megabytes, 'words': count, 'calls': calls,
            'kernel_before': words[0] - 1, 'kernel_meanwhile': meanwhile,
            'kernel_after': calls - words[-1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--megabytes', type=int, default=100)
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results')
    args = parser.parse_args()
    if args.megabytes < 1:
        parser.error('--megabytes: use 1 or more')
    record.need_linux()
    with record.measuring() as directory:
        found = check_numbers(directory, args.megabytes)
    record.write(args.out, 'quality', record.environment(), found, [
        f'The source counts, and a Linux guest copies {args.megabytes} MB of '
        f"/dev/hwrng: {found['words']:,} words, none wrong, lost or repeated. "
        f"The other {found['calls'] - found['words']} of {found['calls']:,} "
        "calls were the kernel's own."])


if __name__ == '__main__':
    main()
