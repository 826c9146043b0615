# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU of "make install"."""

import os
import subprocess

from testlib import OUT, TOP

PREFIX = os.environ.get('PREFIX', '/usr/local')


def install(job, root):
    """Add below root the QEMU of "make install", or remove it from there."""
    return subprocess.run(
        [TOP / 'scripts/install', OUT, job], text=True, check=False,
        capture_output=True, env=dict(os.environ, DESTDIR=str(root),
                                      PREFIX=PREFIX))
