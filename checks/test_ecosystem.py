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

from testlib.bare_metal import Guest, word
from testlib.examples import (BINARY, EXAMPLES, JOB, NO_HOTPLUG, SOURCE,
                              check_words, linux_properties, make_source,
                              replaced, succeed)
from testlib.limits import HANG, until
from testlib.machine import DEVICE, TCG

CONFIG = EXAMPLES / 'spapr-rng.cfg'
UNIT = EXAMPLES / 'pseries@.service'

# The kernel runs poweroff_cmd when QEMU presses the power button.
UNTIL_POWER_OFF = '''
echo '/bin/poweroff -f' >/proc/sys/kernel/poweroff_cmd
echo '--- ready'
sleep 1000
'''


@pytest.fixture
def source(tmp_path):
    """The path of a file of known words, instead of the examples' source."""
    return make_source(tmp_path)


@pytest.fixture
def binary(installed):
    return installed / 'bin/qemu-system-ppc64'


def refused(vm, command, **arguments):
    """The error message of a command, which QEMU must refuse."""
    with pytest.raises(ExecuteError) as error:
        vm.qemu.cmd(command, **arguments)
    return str(error.value)


# -readconfig and systemd

@pytest.fixture
def unit(source, binary):
    """The example unit, edited to run a guest named linux on this host."""
    directory = source.parent
    options = {'type': 'pseries', 'accel': 'tcg',
               **linux_properties(directory, JOB + UNTIL_POWER_OFF)}
    (directory / 'linux.cfg').write_text(TCG.read_text() + '\n'.join([
        *(f'  {name} = "{value}"' for name, value in options.items()),
        '[memory]', '  size = "1G"', '']))
    (directory / CONFIG.name).write_text(
        replaced(CONFIG.read_text(), {SOURCE: source}))
    path = directory / UNIT.name
    path.write_text(replaced(UNIT.read_text(), {BINARY: binary,
                                                '/etc/qemu': directory}))
    return path


def test_unit_is_valid(unit):
    said = succeed('systemd-analyze', 'verify', '--man=no',
                   '--recursive-errors=no', unit)
    assert said == ''


def test_unit_runs(unit, tmp_path):
    """ExecStart boots Linux, which gets words of the source; ExecStop ends it.

    systemd would take the lines apart in the same way.
    """
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


# QMP

def test_backend_before_start(pseries, image, tmp_path, source):
    """With -preconfig, object-add can make the backend of -device."""
    def make(*args, **kwargs):
        at = args.index('late,id=rng0')
        return pseries(*args[:at - 1], *args[at + 1:], '-preconfig', **kwargs)

    vm = Guest(make, image, tmp_path, 'late', health_test='off')
    vm.qemu.cmd('object-add', qom_type='rng-random', id='rng0',
                filename=str(source))
    vm.qemu.cmd('x-exit-preconfig')
    vm.call(3)
    vm.finish()
    assert vm.values() == [word(0), word(1), word(2)]
    vm.quit()


def test_run_time(guest, source):
    """While the machine runs, the device can neither be added nor removed."""
    vm = guest(f'rng-random,filename={source}')
    vm.call()
    vm.finish()
    device = {'path': DEVICE, 'property': 'rng'}
    # virtio-rng, which can be hotplugged, may share a backend.
    vm.qemu.cmd('object-add', qom_type='rng-builtin', id='rng1')

    assert refused(vm, 'device_add', driver='spapr-rng',
                   rng='rng1') == NO_HOTPLUG
    assert refused(vm, 'device_del', id='hrandom') == NO_HOTPLUG
    assert refused(vm, 'object-del', id='rng0') == \
        "object 'rng0' is in use, can not be deleted"

    vm.qemu.cmd('object-del', id='rng1')
    assert vm.qemu.cmd('qom-get', **device) == '/objects/rng0'
    vm.call()
    vm.finish()
    assert vm.values() == [word(0), word(1)]
    vm.quit()
