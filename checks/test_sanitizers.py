# SPDX-License-Identifier: GPL-2.0-or-later
"""The qtest of the series on a QEMU with sanitizers.

In the qtest, QEMU ends while calls wait and requests are outstanding, among
other things.
"""

import os

from testlib import KIND, sanitizers
from testlib.programs import run


def test_qtest(out, tmp_path):
    log = tmp_path / 'sanitizer'
    env = dict(os.environ, QTEST_QEMU_BINARY='./qemu-system-ppc64',
               **sanitizers.environment(log))
    done = run(out / 'native/tests/qtest/spapr-rng-test', '-k', env=env,
               cwd=out / KIND.replace('native', 'asan'))
    assert sanitizers.reports(log) == ''
    assert done.returncode == 0
