# SPDX-License-Identifier: GPL-2.0-or-later
"""The qtest of the series, and QEMU's own tests that the series could break."""

import os

import pytest

from testlib import TOP
from testlib.programs import run

NAMES = [line.split()[0]
         for line in (TOP / 'checks/qemu-tests').read_text().splitlines()
         if not line.startswith('#')]


def run_in(out, *args, **env):
    done = run(*args, cwd=out / 'native', env=dict(os.environ, **env))
    assert done.returncode == 0
    return done.stdout


@pytest.mark.parametrize('name', NAMES)
def test_meson(out, name):
    name = name.replace('qtest/', 'qtest-ppc64/').removeprefix('unit/')
    output = run_in(out, 'pyvenv/bin/meson', 'test', '--no-rebuild', '-t',
                    '10', '--print-errorlogs', name)
    # meson also ends with status 0 if a test skips itself.
    assert '\nOk:                 1' in output


def test_image_is_up_to_date(tmp_path):
    """hcalls-image.h was made from the current hcalls.S."""
    source = TOP / 'guests/bare-metal'
    made = tmp_path / 'hcalls-image.h'
    done = run('make', '-C', source, f'O={tmp_path}', made)
    assert done.returncode == 0
    assert made.read_bytes() == (source / made.name).read_bytes()


def test_boot_serial(out):
    """Only pseries: the other machines need firmware that Debian lacks."""
    output = run_in(out, 'tests/qtest/boot-serial-test', '-p',
                    '/ppc64/boot-serial/pseries',
                    QTEST_QEMU_BINARY='./qemu-system-ppc64')
    assert 'ok 1 /ppc64/boot-serial/pseries' in output


def test_ppc64le_build(out):
    """The build for POWER hosts is a ppc64le binary with the device."""
    binary = (out / 'ppc64le/qemu-system-ppc64').read_bytes()
    assert binary[:6] == b'\x7fELF\x02\x01'
    assert binary[18:20] == b'\x15\x00'    # EM_PPC64
    assert b'the kernel has no random number generator for guests' in binary
