# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's health tests in a program of their own, without a guest."""

import subprocess

from testlib import OUT, TOP
from testlib.programs import compile_c


def test(words, source, directory):
    """
    Run the health tests of the QEMU build on words of a file.

    Returns the process. After an alarm, its status is 1, and its standard
    error has the reason.
    """
    tests, = OUT.glob('native/*/hw_ppc_spapr_rng_health.c.o')
    program = compile_c('testlib/good-words.c', directory, tests,
                        '-I', TOP / 'include')
    with subprocess.Popen(['head', '-c', str(8 * words), source],
                          stdout=subprocess.PIPE) as head:
        return subprocess.run([program], stdin=head.stdout, text=True,
                              stderr=subprocess.PIPE, check=False)
