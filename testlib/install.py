# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU that "make install" installs."""

import os

from testlib import OUT, TOP
from testlib.programs import run

PREFIX = os.environ.get('PREFIX', '/usr/local')


def install(job, root):
    """Install QEMU below root (job "add"), or uninstall it ("remove")."""
    return run(TOP / 'scripts/install', OUT, job, env=dict(
        os.environ, DESTDIR=str(root), PREFIX=PREFIX))
