# SPDX-License-Identifier: GPL-2.0-or-later
"""The device's health tests, on words that no guest has to ask for."""

import subprocess
from pathlib import Path

from conftest import OUT, TOP


def test(words, source, directory):
    """
    Put so many words of a file through the tests that were built into QEMU.

    Returns the process: its status is 1, and its standard error says why, if
    there was an alarm.
    """
    program = Path(directory) / 'good-words'
    tests, = OUT.glob('obj/*/hw_ppc_spapr_rng_health.c.o')
    subprocess.run(['cc', '-O2', '-Wall', '-Wextra', '-Werror', '-o', program,
                    '-I', TOP / 'include', TOP / 'checks/good-words.c', tests],
                   check=True)
    with open(source, 'rb') as file:
        return subprocess.run([program, str(words)], stdin=file, text=True,
                              stderr=subprocess.PIPE, check=False)
