# SPDX-License-Identifier: GPL-2.0-or-later
"""The device from configuration files, systemd and QMP.

The checks run the files of docs/examples/: see testlib/examples.py.
"""

import re
import shlex

import pytest
from qemu.qmp import ExecuteError

from testlib.bare_metal import Guest, word
from testlib.examples import (BINARY, EXAMPLES, NO_HOTPLUG, SOURCE,
                              check_console, linux_properties, make_source,
                              replaced, succeed)
from testlib.limits import HANG
from testlib.machine import DEVICE, TCG

CONFIG = EXAMPLES / 'spapr-rng.cfg'
UNIT = EXAMPLES / 'pseries@.service'


@pytest.fixture
def source(tmp_path):
    """The path of a file of known words, instead of the examples' source."""
    return make_source(tmp_path)


@pytest.fixture
def binary(out):
    return (out / 'native/qemu-system-ppc64').resolve()


@pytest.fixture
def linux(tmp_path):
    """The machine properties that boot Linux with the job."""
    return linux_properties(tmp_path)


def refused(vm, command, **arguments):
    """The error message of a command, which QEMU must refuse."""
    with pytest.raises(ExecuteError) as error:
        vm.qemu.cmd(command, **arguments)
    return str(error.value)


# -readconfig and systemd

@pytest.fixture
def unit(source, binary, linux):
    """The example unit, edited to run a guest named linux on this host."""
    directory = source.parent
    options = {'type': 'pseries', 'accel': 'tcg', **linux}
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


def test_unit_runs(unit):
    """The unit's command boots Linux, which gets words of the source."""
    text = unit.read_text().replace('\\\n', ' ').replace('%i', 'linux')
    command = re.search('^ExecStart=(.*)', text, re.M)[1]
    said = succeed(*shlex.split(command), '-L', '/usr/share/qemu', timeout=HANG)
    check_console(said)


# QMP

def test_backend_before_start(pseries, image, tmp_path, source):
    """With -preconfig, object-add can make the backend of -device."""
    def make(*args, **kwargs):
        at = args.index('late,id=rng0')
        return pseries(*args[:at - 1], *args[at + 1:], '-preconfig', **kwargs)

    vm = Guest(make, image, tmp_path, 'late')
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
