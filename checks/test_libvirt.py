# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/examples/libvirt.xml on the installed QEMU; sources it is denied."""

import os
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from testlib import TOP
from testlib.examples import (BINARY, EXAMPLES, SOURCE, check_words,
                              linux_properties, make_source, replaced)
from testlib.limits import until
from testlib.machine import TCG
from testlib.programs import run

pytestmark = pytest.mark.skipif(os.geteuid() != 0,
                                reason='the system daemon needs root')

DOMAIN = EXAMPLES / 'libvirt.xml'

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
ARGUMENTS = '<qemu:commandline>.*?</qemu:commandline>'
ACL = 'cgroup_device_acl = ["/dev/null", "/dev/ptmx", "/dev/kmsg"]'


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


def test_example(domain, tmp_path):
    """The example is valid, libvirt runs it, and Linux gets random words."""
    assert run('virt-xml-validate', DOMAIN, 'domain').returncode == 0
    linux = linux_properties(tmp_path)
    console = tmp_path / 'console'
    path = domain(DOMAIN.read_text(), {
        SOURCE: make_source(tmp_path),
        '</os>': f'<kernel>{linux["kernel"]}</kernel>'
                 f'<initrd>{linux["initrd"]}</initrd>'
                 f'<cmdline>{linux["append"]}</cmdline></os>',
        "<console type='pty'/>":
            f'<console type="file"><source path="{console}"/></console>',
    }, '-machine', 'x-vof=on')
    with system_daemon(tmp_path) as virsh:
        assert virsh('create', path).returncode == 0
        until(lambda: virsh('list', '--name').stdout.strip() == '')
    check_words(console.read_text(errors='replace').splitlines())


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
