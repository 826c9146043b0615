# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU of "make install"."""

import os
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PREFIX = os.environ.get('PREFIX', '/usr/local')  # of the build


def install(job, root):
    """Add it below root, or remove it from there."""
    out = os.environ.get('OUT', TOP / 'build')
    return subprocess.run(
        [TOP / 'scripts/install', out, job], text=True, check=False,
        capture_output=True, env=dict(os.environ, DESTDIR=str(root),
                                      PREFIX=PREFIX))
