# SPDX-License-Identifier: GPL-2.0-or-later
"""A source of which each byte is known, and programs in C, for benches."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build(directory, name):
    """Compile bench/NAME.c."""
    program = directory / name
    subprocess.run(['gcc', '-O2', '-o', program, HERE / f'{name}.c'],
                   check=True)
    return program


@contextmanager
def numbers(directory):
    """A FIFO that gives 1, 2, 3 and so on as 64-bit words."""
    program = build(directory, 'count')
    fifo = directory / 'fifo'
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDWR)
    with subprocess.Popen([program], stdout=fd) as feeder:
        try:
            yield fifo
        finally:
            feeder.kill()
            os.close(fd)
