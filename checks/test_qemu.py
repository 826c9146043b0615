# SPDX-License-Identifier: GPL-2.0-or-later
"""The series' tests in QEMU's suite, and those that it could break."""

import pytest

from testlib import TOP
from testlib.programs import run

NAMES = [line.split()[0]
         for line in (TOP / 'checks/qemu-tests').read_text().splitlines()
         if not line.startswith('#')]


@pytest.mark.parametrize('name', NAMES)
def test_meson(out, name):
    name = name.replace('qtest/', 'qtest-ppc64/').removeprefix('unit/')
    done = run('pyvenv/bin/meson', 'test', '--no-rebuild', '-t', '10',
               '--print-errorlogs', name, cwd=out / 'native')
    assert done.returncode == 0
    # meson also ends with status 0 if a test skips itself.
    assert '\nOk:                 1' in done.stdout


def test_image_is_up_to_date(tmp_path):
    """hcalls-image.h was made from the current hcalls.S."""
    source = TOP / 'guests/bare-metal'
    made = tmp_path / 'hcalls-image.h'
    done = run('make', '-C', source, f'O={tmp_path}', made)
    assert done.returncode == 0
    assert made.read_bytes() == (source / made.name).read_bytes()
