# SPDX-License-Identifier: GPL-2.0-or-later
"""The package that checks/ and bench/ share.

This module has the paths, and the names of the build and of the guests.
"""

import os
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get('OUT', TOP / 'build')).resolve()

# The build of QEMU that guests run on: a KIND of scripts/build-qemu
KIND = os.environ.get('KIND', 'native')

# The Linux guests. Some mirrors have no Linux that is newer than these two.
GUESTS = TOP / 'build/guests'
KERNELS = ['6.1', '6.12'] + \
    ['newest'] * (GUESTS / 'linux-newest/version').exists()
