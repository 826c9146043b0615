# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux finds the device by itself, with each kernel and firmware."""

import pytest

from testlib import KERNELS
from testlib.limits import HANG
from testlib.linux import (KNOWN_WORDS_JOB, Console, check_words, linux_args,
                           make_source)
from testlib.machine import spapr_rng

# Byte 0 of the vector is the length. The generator is bit 0 of byte 17.
JOB = f'''
cd /proc/device-tree
grep -o hcall-random rtas/ibm,hypertas-functions
hexdump -s 17 -n 1 -e '"vector %02x\\n"' chosen/ibm,architecture-vec-5
find ibm,platform-facilities -type d
{KNOWN_WORDS_JOB}'''


@pytest.mark.parametrize('vof', ['on', 'off'], ids=['vof', 'slof'])
@pytest.mark.parametrize('kernel', KERNELS)
def test_with_device(tmp_path, pseries, kernel, vof):
    """The driver is in use, and gives words of the source in order."""
    source = make_source(tmp_path)
    qemu = pseries(*linux_args(kernel, tmp_path, JOB),
                   '-machine', f'x-vof={vof}',
                   *spapr_rng(f'rng-random,filename={source}'))
    lines = Console(qemu).lines_until('--- job end')
    qemu.wait(timeout=HANG)
    assert qemu.exitcode() == 0

    first = lines.index('--- job begin') + 1
    assert lines[first:first + 4] == [
        'hcall-random', 'vector 80', 'ibm,platform-facilities',
        'ibm,platform-facilities/ibm,random-v1']
    check_words(lines)
    assert lines[-1] == '--- job end, status 0'
