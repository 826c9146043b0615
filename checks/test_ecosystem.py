# SPDX-License-Identifier: GPL-2.0-or-later
"""The device from configuration files, systemd and QMP.

The checks run the files of docs/examples/: see testlib/examples.py.
"""

import os
import re
import shlex
import subprocess

import pytest
from qemu.qmp import ExecuteError

from testlib.bare_metal import word
from testlib.examples import (BINARY, EXAMPLES, JOB, SOURCE, check_words,
                              linux_properties, make_source, replaced)
from testlib.limits import HANG, until
from testlib.machine import TCG, URANDOM, device
from testlib.programs import run

CONFIG = EXAMPLES / 'spapr-rng.cfg'
UNIT = EXAMPLES / 'pseries@.service'

# The kernel runs poweroff_cmd when QEMU presses the power button.
UNTIL_POWER_OFF = '''
echo '/bin/poweroff -f' >/proc/sys/kernel/poweroff_cmd
echo '--- ready'
sleep 1000
'''


@pytest.fixture
def unit(tmp_path, installed):
    """The example unit, edited to run a guest named linux on this host."""
    options = {'type': 'pseries', 'accel': 'tcg',
               **linux_properties(tmp_path, JOB + UNTIL_POWER_OFF)}
    (tmp_path / 'linux.cfg').write_text(TCG.read_text() + '\n'.join([
        *(f'  {name} = "{value}"' for name, value in options.items()),
        '[memory]', '  size = "1G"', '']))
    (tmp_path / CONFIG.name).write_text(
        replaced(CONFIG.read_text(), {SOURCE: make_source(tmp_path)}))
    path = tmp_path / UNIT.name
    path.write_text(replaced(UNIT.read_text(), {
        BINARY: installed / 'bin/qemu-system-ppc64', '/etc/qemu': tmp_path}))
    return path


def test_unit(unit, tmp_path):
    """ExecStart boots Linux, which gets words of the source; ExecStop ends it.

    systemd would take the lines apart in the same way.
    """
    verified = run('systemd-analyze', 'verify', '--man=no',
                   '--recursive-errors=no', unit)
    assert (verified.returncode, verified.stderr) == (0, '')
    text = replaced(unit.read_text().replace('\\\n', ' '),
                    {'%i': 'linux', '%t': tmp_path})
    start, stop = (shlex.split(line) for line in
                   re.findall('^Exec(?:Start|Stop)=(.*)', text, re.M))
    (tmp_path / 'qemu-linux').mkdir()
    console = tmp_path / 'console'
    with open(console, 'wb') as log, subprocess.Popen(
            [*start, '-L', '/usr/share/qemu'], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log) as qemu:
        try:
            until(lambda: b'--- ready' in console.read_bytes() or
                  qemu.poll() is not None)
            with subprocess.Popen(stop, env={
                    **os.environ, 'MAINPID': str(qemu.pid)}) as stopper:
                assert qemu.wait(HANG) == 0
                assert stopper.wait(HANG) == 0
        finally:
            qemu.kill()
    check_words(console.read_text(errors='replace').splitlines())


def test_backend_before_start(guest, tmp_path):
    """With -preconfig, object-add can make the backend of -device."""
    vm = guest(None, '-preconfig', '-device',
               device(rng='rng0', health_test='off'))
    vm.qemu.cmd('object-add', qom_type='rng-random', id='rng0',
                filename=str(make_source(tmp_path)))
    vm.qemu.cmd('x-exit-preconfig')
    vm.call(3)
    vm.finish()
    assert vm.values() == [word(0), word(1), word(2)]
    vm.quit()


def test_device_del(guest):
    """The device cannot be removed while the machine runs."""
    vm = guest(URANDOM)
    with pytest.raises(ExecuteError, match='does not support hotplugging'):
        vm.qemu.cmd('device_del', id='hrandom')
    vm.call()
    vm.finish()
    assert len(vm.values()) == 1
    vm.quit()
