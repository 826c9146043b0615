# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of the host's: some are made here, and some are run to their end."""

import subprocess
from pathlib import Path

from testlib import TOP
from testlib.limits import HANG


def compile_c(source, directory, *options, compiler='gcc'):
    """Make a program of this file of the repository; returns its path."""
    program = Path(directory) / Path(source).stem
    subprocess.run([compiler, '-O2', '-Wall', '-Wextra', '-Werror', '-o',
                    program, TOP / source, *options], check=True)
    return program


def run(*args, timeout=10 * HANG, **kwargs):
    """Run a program, and print what it says."""
    done = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False, timeout=timeout, **kwargs)
    print(done.stdout, done.stderr)
    return done
