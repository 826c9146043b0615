# SPDX-License-Identifier: GPL-2.0-or-later
"""The qtest of the series on a QEMU with sanitizers.

In the qtest, QEMU ends while calls wait and requests are outstanding, among
other things.
"""

from testlib import KIND
from testlib.programs import run


def test_qtest(out, monkeypatch):
    monkeypatch.setenv('QTEST_QEMU_BINARY', './qemu-system-ppc64')
    done = run(out / 'native/tests/qtest/spapr-rng-test', '-k',
               cwd=out / KIND.replace('native', 'asan'))
    assert done.returncode == 0
