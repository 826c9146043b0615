# SPDX-License-Identifier: GPL-2.0-or-later
"""What checks, benches and the fuzzer share; here, where things are."""

import os
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get('OUT', TOP / 'build')).resolve()

# The build of QEMU that guests run on, of scripts/build-qemu's
KIND = os.environ.get('KIND', 'native')

# What Linux guests there are; a newer one than these two is not on each mirror.
GUESTS = TOP / 'build/guests'
KERNELS = ['6.1', '6.12'] + \
    ['newest'] * (GUESTS / 'linux-newest/version').exists()
