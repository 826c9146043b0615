# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which QEMU runs vCPUs."""

import pytest

# They decide how vCPUs wait for each other.
ACCELS = {
    'one': {'accel': 'tcg', 'cpus': 1},
    'multi': {'accel': 'tcg,thread=multi', 'cpus': 4},
    'single': {'accel': 'tcg,thread=single', 'cpus': 4},
    'icount': {'icount': 'shift=auto', 'cpus': 1},
    'icount-4': {'icount': 'shift=auto', 'cpus': 4},
}


def accels(*names):
    return pytest.mark.parametrize('way', [ACCELS[name] for name in names],
                                   ids=names)


every_accel = accels(*ACCELS)
