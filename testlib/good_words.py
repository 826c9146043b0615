# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's health tests, on words that no guest has to ask for."""

import subprocess

from testlib import OUT, TOP
from testlib.programs import compile_c


def test(words, source, directory):
    """
    Put so many words of a file through the tests that were built into QEMU.

    Returns the process: its status is 1, and its standard error says why, if
    there was an alarm.
    """
    tests, = OUT.glob('native/*/hw_ppc_spapr_rng_health.c.o')
    program = compile_c('testlib/good-words.c', directory, tests,
                        '-I', TOP / 'include')
    with open(source, 'rb') as file:
        return subprocess.run([program, str(words)], stdin=file, text=True,
                              stderr=subprocess.PIPE, check=False)
