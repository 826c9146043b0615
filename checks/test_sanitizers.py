# SPDX-License-Identifier: GPL-2.0-or-later
"""Our test again, on a QEMU with address and undefined behaviour sanitizers.

Its guests quit while they wait, with requests outstanding, among other things.
"""

import os
import subprocess


def test_asan(out):
    env = dict(os.environ, QTEST_QEMU_BINARY='./qemu-system-ppc64',
               # QEMU leaves much to the end of the process.
               ASAN_OPTIONS='detect_leaks=0',
               UBSAN_OPTIONS='halt_on_error=1:print_stacktrace=1')
    # Not the test that stderr stays empty: the sanitizer speaks there.
    done = subprocess.run([out / 'obj/tests/qtest/spapr-rng-test', '-k',
                           '-s', '/ppc64/spapr-rng/help'], cwd=out / 'asan',
                          env=env, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)
    print(done.stdout, done.stderr)
    assert 'ERROR: ' not in done.stdout + done.stderr
    assert 'runtime error' not in done.stdout + done.stderr
    assert done.returncode == 0
