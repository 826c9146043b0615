# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU of "make install"."""

import os

from testlib import OUT, TOP
from testlib.programs import run

PREFIX = os.environ.get('PREFIX', '/usr/local')


def install(job, root):
    """Add below root the QEMU of "make install", or remove it from there."""
    return run(TOP / 'scripts/install', OUT, job, env=dict(
        os.environ, DESTDIR=str(root), PREFIX=PREFIX))
