# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile programs for the host and for guests, and run them on the host."""

import subprocess
from pathlib import Path

from testlib import TOP
from testlib.limits import HANG


def compile_c(source, directory, *options, compiler='gcc'):
    """Compile a C file of this repository; return the program's path."""
    program = Path(directory) / Path(source).stem
    subprocess.run([compiler, '-O2', '-Wall', '-Wextra', '-Werror', '-o',
                    program, TOP / source, *options], check=True)
    return program


def compile_for_guest(source, directory, *options):
    """Compile a program that needs no library of the Linux guest."""
    return compile_c(source, directory, '-static', *options,
                     compiler='powerpc64le-linux-gnu-gcc')


def run(*args, **kwargs):
    """Run a program to its end, and print its output."""
    done = subprocess.run(args, capture_output=True, text=True, check=False,
                          timeout=10 * HANG, **{'input': '', **kwargs})
    print(done.stdout, done.stderr)
    return done
