# SPDX-License-Identifier: GPL-2.0-or-later
"""The device from libvirt, configuration files, systemd and QMP.

The files in docs/examples/ are what is tested, with paths of this build in
place of an installation's, and with a source whose words are known.
"""

import os
import re
import shlex
import signal
import struct
import subprocess
import xml.etree.ElementTree as ET

import pytest
from qemu.qmp import ExecuteError

from bare_metal import HANG, Guest, source_bytes, within, word
from conftest import TOP
from linux_guest import initrd_with_job

EXAMPLES = TOP / 'docs/examples'
CONFIG = EXAMPLES / 'spapr-rng.cfg'
DOMAIN = EXAMPLES / 'libvirt.xml'
UNIT = EXAMPLES / 'pseries@.service'
BINARY = '/usr/bin/qemu-system-ppc64'
SOURCE = '/dev/urandom'

QEMU_XML = 'http://libvirt.org/schemas/domain/qemu/1.0'
NO_HOTPLUG = "Device 'spapr-rng' does not support hotplugging"
MACHINE = {'x-vof': 'on', 'cap-cfpc': 'broken', 'cap-sbbc': 'broken',
           'cap-ibs': 'broken', 'cap-ccf-assist': 'off'}

# What a Linux guest reads
JOB = '''
echo "current $(cat /sys/class/misc/hw_random/rng_current)"
dd if=/dev/hwrng bs=64 count=16 2>/dev/null | hexdump -v -e '/1 "%02x"'
echo
'''


def run(*args, **kwargs):
    """What a program printed; it must not fail."""
    done = subprocess.run(args, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, check=False, **kwargs)
    print(done.stdout)
    assert done.returncode == 0
    return done.stdout


def replaced(text, values):
    """The text of an example with other values in place of what it has."""
    for old, new in values.items():
        assert old in text
        text = text.replace(old, str(new))
    return text


def check_console(text):
    """Linux had the driver in use, and got words of the source, in order."""
    lines = text.replace('\r', '').splitlines()
    print('\n'.join(lines))
    data = bytes.fromhex(lines[lines.index('current pseries_rng') + 1])
    assert len(data) == 1024
    words = struct.unpack('<128Q', data)
    first = next(i for i in range(8192) if word(i) == words[0])
    assert words == tuple(map(word, range(first, first + 128)))
    assert '--- job end, status 0' in lines


@pytest.fixture
def source(tmp_path):
    """A file of known words in place of the examples' source."""
    path = tmp_path / 'source'
    path.write_bytes(source_bytes(0, 16384))
    return path


@pytest.fixture
def binary(out):
    return (out / 'qemu-system-ppc64').resolve()


@pytest.fixture
def linux(top, tmp_path):
    """The machine properties that boot Linux with the job."""
    guest = top / 'build/guests/linux-6.1'
    return {'kernel': str(guest / 'vmlinux'),
            'initrd': str(initrd_with_job(guest, tmp_path, JOB)),
            'append': 'console=hvc0 loglevel=1'}


def refused(vm, command, **arguments):
    """The message that a command is refused with."""
    with within(HANG), pytest.raises(ExecuteError) as error:
        vm.vm.cmd(command, **arguments)
    return str(error.value)


# libvirt

def domain_to_run(directory, binary, source, linux):
    """Write the example as a domain that can run here."""
    ET.register_namespace('qemu', QEMU_XML)
    tree = ET.ElementTree(ET.fromstring(replaced(
        DOMAIN.read_text(), {BINARY: binary, SOURCE: source})))
    for name, prop in [('kernel', 'kernel'), ('initrd', 'initrd'),
                       ('cmdline', 'append')]:
        ET.SubElement(tree.find('os'), name).text = linux[prop]
    console = tree.find('devices/console')
    console.set('type', 'file')
    ET.SubElement(console, 'source', path=str(directory / 'console'))
    options = ','.join(f'{name}={value}' for name, value in MACHINE.items())
    for value in ['-L', '/usr/share/qemu', '-machine', options]:
        ET.SubElement(tree.find(f'{{{QEMU_XML}}}commandline'),
                      f'{{{QEMU_XML}}}arg', value=value)
    tree.write(directory / 'domain.xml')
    return directory / 'domain.xml'


def virsh(root, *commands):
    """What virsh prints, with libvirt's QEMU driver in it: no daemon runs."""
    (root / 'etc').mkdir(parents=True)
    (root / 'etc/qemu.conf').write_text('stdio_handler = "file"\n')
    env = dict(os.environ, LC_ALL='C', HOME=str(root))
    for name in ['RUNTIME_DIR', 'CONFIG_HOME', 'CACHE_HOME', 'DATA_HOME']:
        env[f'XDG_{name}'] = str(root / 'user')
    # Run by root, libvirt insists on users that its daemon's package makes.
    nobody = ['unshare', '--user', '--map-user=65534', '--map-group=65534']
    return run(*(nobody if os.geteuid() == 0 else []), 'virsh', '-q', '-c',
               f'qemu:///embed?root={root}', '; '.join(commands), env=env,
               timeout=3 * HANG)


def test_libvirt(binary, source, linux):
    """The example is valid; libvirt runs it, and Linux gets its numbers."""
    directory = source.parent
    run('virt-xml-validate', DOMAIN, 'domain')
    domain = domain_to_run(directory, binary, source, linux)
    root = directory / 'libvirt'
    event = 'event --domain hrandom --event lifecycle ' \
        f'--timeout {HANG}'
    try:
        said = virsh(
            root, f'domxml-to-native qemu-argv {domain}', f'create {domain}',
            'qemu-monitor-command hrandom --hmp "device_add spapr-rng"',
            event)
    finally:
        for pid in root.glob('run/qemu/hrandom.pid'):
            os.kill(int(pid.read_text()), signal.SIGKILL)
    assert f' -object rng-random,filename={source},id=rng0' \
        ' -device spapr-rng,rng=rng0,id=hrandom ' in said
    assert f'Error: {NO_HOTPLUG}' in said
    assert 'Shutdown Finished after guest request' in said
    check_console((directory / 'console').read_text(errors='replace'))


# -readconfig and systemd

@pytest.fixture
def unit(source, binary, linux):
    """The example unit, as one that can run here a guest named linux."""
    directory = source.parent
    options = {'type': 'pseries', 'accel': 'tcg', **MACHINE, **linux}
    (directory / 'linux.cfg').write_text('\n'.join([
        '[machine]', *(f'  {name} = "{value}"'
                       for name, value in options.items()),
        '[memory]', '  size = "1G"', '']))
    (directory / CONFIG.name).write_text(
        replaced(CONFIG.read_text(), {SOURCE: source}))
    path = directory / UNIT.name
    path.write_text(replaced(UNIT.read_text(), {BINARY: binary,
                                                '/etc/qemu': directory}))
    return path


def test_unit_is_valid(unit):
    said = run('systemd-analyze', 'verify', '--man=no',
               '--recursive-errors=no', unit)
    assert said == ''


def test_unit_runs(unit):
    """Its command boots Linux, which gets the numbers of spapr-rng.cfg."""
    text = unit.read_text().replace('\\\n', ' ').replace('%i', 'linux')
    command = re.search('^ExecStart=(.*)', text, re.M)[1]
    said = run(*shlex.split(command), '-L', '/usr/share/qemu',
               stdin=subprocess.DEVNULL, timeout=HANG)
    check_console(said)


# QMP

def test_backend_before_start(pseries, image, tmp_path, source):
    """-preconfig lets object-add make the backend that -device names."""
    def make(*args, **kwargs):
        at = args.index('late,id=rng0')
        return pseries(*args[:at - 1], *args[at + 1:], '-preconfig', **kwargs)

    vm = Guest(make, image, tmp_path, 'late', device=',id=hrandom')
    vm.vm.cmd('object-add', qom_type='rng-random', id='rng0',
              filename=str(source))
    vm.vm.cmd('x-exit-preconfig')
    vm.call(3)
    vm.finish()
    assert vm.values() == [word(0), word(1), word(2)]
    vm.quit()


def test_run_time(guest, source):
    """While the machine runs, its device stays where it is, and says so."""
    vm = guest(f'rng-random,filename={source}', device=',id=hrandom')
    vm.call()
    vm.finish()
    device = {'path': '/machine/peripheral/hrandom', 'property': 'rng'}
    # virtio-rng, which can be hotplugged, may share a backend.
    vm.vm.cmd('object-add', qom_type='rng-builtin', id='rng1')

    assert refused(vm, 'device_add', driver='spapr-rng',
                   rng='rng1') == NO_HOTPLUG
    assert refused(vm, 'device_del', id='hrandom') == NO_HOTPLUG
    assert refused(vm, 'object-del', id='rng0') == \
        "object 'rng0' is in use, can not be deleted"

    vm.vm.cmd('object-del', id='rng1')
    assert vm.vm.cmd('qom-get', **device) == '/objects/rng0'
    vm.call()
    vm.finish()
    assert vm.values() == [word(0), word(1)]
    vm.quit()
