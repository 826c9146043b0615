# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of docs/examples/ and of the manual, on the installed QEMU.

They run with the paths of this build, and with a source of known words.
"""

import os
import re
import shlex
import subprocess

import pytest

from testlib import TOP
from testlib.bare_metal import source_bytes
from testlib.limits import HANG, until
from testlib.linux import CURRENT, linux_args, read_hwrng, words_of
from testlib.machine import TCG, device
from testlib.programs import run

EXAMPLES = TOP / 'docs/examples'
CONFIG = EXAMPLES / 'spapr-rng.cfg'
UNIT = EXAMPLES / 'pseries@.service'
DOMAIN = EXAMPLES / 'libvirt.xml'
BINARY = '/usr/bin/qemu-system-ppc64'
SOURCE = '/dev/urandom'

# Linux shows which words of the source it gets from the device.
WORDS = source_bytes(0, 16384)
JOB = f'echo "current $(cat {CURRENT})"; {read_hwrng(1024)}\n'

# The kernel runs poweroff_cmd when QEMU presses the power button.
UNTIL_POWER_OFF = '''
echo '/bin/poweroff -f' >/proc/sys/kernel/poweroff_cmd
echo '--- ready'
sleep 1000
'''

# Run a domain as libvirt's system daemon would: as root, with a private /dev,
# and with the user libvirt-qemu, which not every host has. Without a daemon,
# nobody would remove its cgroups.
LIBVIRT = r'''
umount -a -l -t cgroup,cgroup2
mount -t tmpfs tmpfs /srv
cd /srv
user=libvirt-qemu:x:64055
{ cat /etc/passwd; echo $user:64055::/:/bin/false; } >passwd
{ cat /etc/group; echo $user:; } >group
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mkdir etc
printf '%s\n' 'stdio_handler = "file"' 'user = "root"' "$2" >etc/qemu.conf
virsh -q -c 'qemu:///embed?root=/srv' create "$1"
tail --pid="$(cat run/qemu/hrandom.pid)" -f /dev/null'''

# A character device of root's stands for /dev/hwrng, which not every host has:
# libvirt does not let a guest use it, either.
DENIED = '/dev/kmsg'
ARGUMENTS = '<qemu:commandline>.*?</qemu:commandline>'
ACL = 'cgroup_device_acl = ["/dev/null", "/dev/ptmx", "/dev/kmsg"]'


def replaced(text, values):
    """The text of an example, with each old value replaced by a new one."""
    for old, new in values.items():
        assert old in text
        text = text.replace(old, str(new))
    return text


@pytest.fixture
def source(tmp_path):
    """The file of known words."""
    path = tmp_path / 'source'
    path.write_bytes(WORDS)
    return path


def check_words(console):
    """Linux has used the driver, and got consecutive words of the source."""
    lines = console.read_text(errors='replace').splitlines()
    data = bytes.fromhex(lines[lines.index('current pseries_rng') + 1])
    assert len(data) == 1024
    assert words_of(data) in WORDS


def test_unit(tmp_path, installed, source):
    """ExecStart boots Linux, which gets words of the source; ExecStop ends it.

    systemd would take the lines apart in the same way.
    """
    (tmp_path / 'linux.cfg').write_text(
        TCG.read_text() + '  type = "pseries"\n  accel = "tcg"\n')
    (tmp_path / CONFIG.name).write_text(
        replaced(CONFIG.read_text(), {SOURCE: source}))
    unit = tmp_path / UNIT.name
    unit.write_text(replaced(UNIT.read_text(), {
        BINARY: installed / 'bin/qemu-system-ppc64', '/etc/qemu': tmp_path}))
    verified = run('systemd-analyze', 'verify', '--man=no',
                   '--recursive-errors=no', unit)
    assert (verified.returncode, verified.stderr) == (0, '')
    text = replaced(unit.read_text().replace('\\\n', ' '),
                    {'%i': 'linux', '%t': tmp_path})
    start, stop = (shlex.split(line) for line in
                   re.findall('^Exec(?:Start|Stop)=(.*)', text, re.M))
    start += linux_args('6.1', tmp_path, JOB + UNTIL_POWER_OFF)
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
    check_words(console)


@pytest.mark.skipif(os.geteuid() != 0, reason='a mount needs root')
@pytest.mark.parametrize('way', ['unchanged', 'argument', 'element', 'acl'])
def test_libvirt(tmp_path, installed, source, way):
    """The example is valid, libvirt runs it, and Linux gets random words.

    A device only named in an argument is denied; two ways around work. All of
    QEMU's firmware is the installed one, here SLOF.
    """
    text = DOMAIN.read_text()
    if way == 'element':
        manual = (TOP / 'docs/system/ppc/spapr-rng.rst').read_text()
        arguments = re.findall(ARGUMENTS, manual, re.S)[-1]
        element, = re.findall('<rng .*?</rng>', manual, re.S)
        text = re.sub(ARGUMENTS, arguments, text, flags=re.S).replace(
            '</devices>', element.replace('/dev/hwrng', SOURCE) + '</devices>')
    console = tmp_path / 'console'
    # Without a daemon, nobody else ends QEMU when Linux has powered off.
    args = ['-action', 'shutdown=poweroff', '-readconfig', TCG,
            *linux_args('6.1', tmp_path, JOB), '-machine', 'x-vof=off']
    end = '</qemu:commandline>'
    path = tmp_path / 'domain.xml'
    path.write_text(replaced(text, {
        BINARY: installed / 'bin/qemu-system-ppc64',
        SOURCE: source if way == 'unchanged' else DENIED,
        "<console type='pty'/>":
            f'<console type="file"><source path="{console}"/></console>',
        end: ''.join(f'<qemu:arg value="{word}"/>' for word in args) + end}))
    for xml in DOMAIN, path:
        assert run('virt-xml-validate', xml, 'domain').returncode == 0

    # When the script ends, the kernel ends QEMU.
    done = run('unshare', '--mount', '--pid', '--mount-proc', '--fork',
               '--kill-child', 'sh', '-euc', LIBVIRT, 'sh', path,
               ACL if way == 'acl' else '')
    denied = way == 'argument'
    assert done.returncode == denied
    assert (f"Could not open '{DENIED}'" in done.stderr) == denied
    if way == 'unchanged':
        check_words(console)


def test_monitor(guest, source):
    """
    With -preconfig, object-add can make the backend of -device.

    QEMU refuses to unplug the device.
    """
    vm = guest(None, '-preconfig', '-device',
               device(rng='rng0', health_test='off'))
    vm.qemu.cmd('object-add', qom_type='rng-random', id='rng0',
                filename=str(source))
    vm.qemu.cmd('x-exit-preconfig')
    answer = vm.qemu.qmp('device_del', id='hrandom')
    assert 'does not support hotplugging' in answer['error']['desc']
    vm.call()
    vm.gets_a_word_each()
    vm.quit()
