# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of docs/examples/ and of the manual, on the installed QEMU.

They run with the paths of this build, and with a source of known words.
"""

import os
import re
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from testlib import TOP
from testlib.limits import HANG, until
from testlib.linux import (KNOWN_WORDS_JOB, check_words, linux_args,
                           make_source)
from testlib.machine import TCG, device
from testlib.programs import run

EXAMPLES = TOP / 'docs/examples'
CONFIG = EXAMPLES / 'spapr-rng.cfg'
UNIT = EXAMPLES / 'pseries@.service'
DOMAIN = EXAMPLES / 'libvirt.xml'
BINARY = '/usr/bin/qemu-system-ppc64'
SOURCE = '/dev/urandom'

# The kernel runs poweroff_cmd when QEMU presses the power button.
UNTIL_POWER_OFF = '''
echo '/bin/poweroff -f' >/proc/sys/kernel/poweroff_cmd
echo '--- ready'
sleep 1000
'''

# The system daemon, whose directories and user are private to it
SYSTEM = r'''
for directory in /run /etc/libvirt /var/lib/libvirt /var/log/libvirt \
    /var/cache/libvirt; do
    mkdir -p $directory
    mount -t tmpfs -o mode=755 tmpfs $directory
done
cp /etc/passwd /etc/group /run/
echo libvirt-qemu:x:64055:64055::/:/bin/false >>/run/passwd
echo libvirt-qemu:x:64055: >>/run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
printf '%s\n' 'stdio_handler = "file"' 'user = "root"' "$1" \
    >/etc/libvirt/qemu.conf
exec libvirtd'''

# A character device of root's stands for /dev/hwrng, which not every host has:
# libvirt does not let a guest use it, either.
DENIED = '/dev/kmsg'
needs_root = pytest.mark.skipif(os.geteuid() != 0,
                                reason='the system daemon needs root')
ARGUMENTS = '<qemu:commandline>.*?</qemu:commandline>'
ACL = 'cgroup_device_acl = ["/dev/null", "/dev/ptmx", "/dev/kmsg"]'


def replaced(text, values):
    """The text of an example, with each old value replaced by a new one."""
    for old, new in values.items():
        assert old in text
        text = text.replace(old, str(new))
    return text


@pytest.fixture
def unit(tmp_path, installed):
    """The example unit, edited to run a guest named linux on this host."""
    (tmp_path / 'linux.cfg').write_text(
        TCG.read_text() + '  type = "pseries"\n  accel = "tcg"\n')
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
    start += linux_args('6.1', tmp_path, KNOWN_WORDS_JOB + UNTIL_POWER_OFF)
    (tmp_path / 'qemu-linux').mkdir()
    console = tmp_path / 'console'
    with open(console, 'wb') as log, subprocess.Popen(
            start, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as qemu:
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


@contextmanager
def system_daemon(directory, setting=''):
    """Run libvirt's daemon; gives a function that runs a command of virsh."""
    def virsh(*command):
        return run('nsenter', f'--mount=/proc/{daemon.pid}/ns/mnt', 'virsh',
                   '-q', '-c', 'qemu:///system', *command)

    with open(directory / 'log', 'wb') as log, subprocess.Popen(
            ['unshare', '--mount', 'sh', '-euc', SYSTEM, 'sh', setting],
            stdout=log, stderr=log, env=dict(
                os.environ, PATH=f"{os.environ['PATH']}:/usr/sbin")) as daemon:
        try:
            socket = Path(f'/proc/{daemon.pid}/root/run/libvirt/libvirt-sock')
            until(lambda: socket.exists() or daemon.poll() is not None)
            yield virsh
            virsh('destroy', 'hrandom')
        finally:
            daemon.terminate()


@pytest.fixture
def domain(tmp_path, installed):
    """A function that writes a domain, edited to run on this host."""
    def write(text, values, *args):
        end = '</qemu:commandline>'
        more = ''.join(f'<qemu:arg value="{word}"/>'
                       for word in ['-readconfig', TCG, *args])
        path = tmp_path / 'domain.xml'
        path.write_text(replaced(text, {
            BINARY: installed / 'bin/qemu-system-ppc64', end: more + end,
            **values}))
        return path
    return write


@needs_root
def test_libvirt(domain, tmp_path):
    """The example is valid, libvirt runs it, and Linux gets random words.

    All of QEMU's firmware is the installed one, here SLOF.
    """
    assert run('virt-xml-validate', DOMAIN, 'domain').returncode == 0
    console = tmp_path / 'console'
    path = domain(DOMAIN.read_text(), {
        SOURCE: make_source(tmp_path),
        "<console type='pty'/>":
            f'<console type="file"><source path="{console}"/></console>',
    }, *linux_args('6.1', tmp_path, KNOWN_WORDS_JOB), '-machine', 'x-vof=off')
    with system_daemon(tmp_path) as virsh:
        assert virsh('create', path).returncode == 0
        until(lambda: virsh('list', '--name').stdout.strip() == '')
    check_words(console.read_text(errors='replace').splitlines())


@needs_root
@pytest.mark.parametrize('way, starts', [
    ('argument', False), ('element', True), ('acl', True)])
def test_denied(domain, tmp_path, way, starts):
    """A device only named in an argument is denied; two ways around work."""
    text = DOMAIN.read_text()
    if way == 'element':
        manual = (TOP / 'docs/system/ppc/spapr-rng.rst').read_text()
        arguments = re.findall(ARGUMENTS, manual, re.S)[-1]
        element, = re.findall('<rng .*?</rng>', manual, re.S)
        text = re.sub(ARGUMENTS, arguments, text, flags=re.S).replace(
            '</devices>', element.replace('/dev/hwrng', SOURCE) + '</devices>')
    path = domain(text, {SOURCE: DENIED}, '-S')
    with system_daemon(tmp_path, ACL if way == 'acl' else '') as virsh:
        done = virsh('create', path)
    assert (done.returncode == 0) == starts
    assert starts or f"Could not open '{DENIED}'" in done.stderr


def test_device_del(guest):
    """QEMU refuses to unplug the device."""
    vm = guest('rng-builtin')
    answer = vm.qemu.qmp('device_del', id='hrandom')
    assert 'does not support hotplugging' in answer['error']['desc']
    vm.quit()


def test_backend_before_start(guest, tmp_path):
    """With -preconfig, object-add can make the backend of -device."""
    vm = guest(None, '-preconfig', '-device',
               device(rng='rng0', health_test='off'))
    vm.qemu.cmd('object-add', qom_type='rng-random', id='rng0',
                filename=str(make_source(tmp_path)))
    vm.qemu.cmd('x-exit-preconfig')
    vm.call()
    vm.gets_a_word_each()
    vm.quit()
