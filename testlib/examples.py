# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that the checks of docs/examples/ share.

The examples run with the paths of this build, and with a source whose words
are known.
"""

import struct

from testlib import GUESTS, TOP
from testlib.bare_metal import source_bytes, word
from testlib.linux import CURRENT, initrd_with_job

EXAMPLES = TOP / 'docs/examples'
BINARY = '/usr/bin/qemu-system-ppc64'
SOURCE = '/dev/urandom'

# The job of a Linux guest: print the current driver, and random bytes.
JOB = f'''
echo "current $(cat {CURRENT})"
dd if=/dev/hwrng bs=64 count=16 2>/dev/null | hexdump -v -e '/1 "%02x"'
echo
'''


def replaced(text, values):
    """The text of an example, with each old value replaced by a new one."""
    for old, new in values.items():
        assert old in text
        text = text.replace(old, str(new))
    return text


def make_source(directory):
    """Write a file of known words, which replaces the examples' source."""
    path = directory / 'source'
    path.write_bytes(source_bytes(0, 16384))
    return path


def linux_properties(directory, job=JOB):
    """The machine properties that boot Linux with the job."""
    return {'x-vof': 'on', 'kernel': str(GUESTS / 'linux-6.1/vmlinux'),
            'initrd': str(initrd_with_job('6.1', directory, job)),
            'append': 'console=hvc0 loglevel=1'}


def check_words(lines):
    """Linux used the driver, and got consecutive words of the source."""
    data = bytes.fromhex(lines[lines.index('current pseries_rng') + 1])
    assert len(data) == 1024
    words = struct.unpack('<128Q', data)
    first = next(i for i in range(8192) if word(i) == words[0])
    assert words == tuple(map(word, range(first, first + 128)))
