# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which QEMU runs vCPUs."""

import pytest

# They decide who else needs the thread of a vCPU that waits, and whose clock
# ends its wait. A machine with one vCPU adds nothing to these three: see qtest
# and test_clock.
ACCELS = {
    'multi': {'accel': 'tcg,thread=multi', 'cpus': 4},
    'single': {'accel': 'tcg,thread=single', 'cpus': 4},
    'icount': {'icount': 'shift=auto', 'cpus': 4},
}

every_accel = pytest.mark.parametrize('way', ACCELS.values(), ids=ACCELS)
not_icount = pytest.mark.parametrize(
    'way', [ACCELS['multi'], ACCELS['single']], ids=['multi', 'single'])
