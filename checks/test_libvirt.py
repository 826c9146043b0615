# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/examples/libvirt.xml on the installed QEMU.

It runs in a user's session, and with a source that only the system daemon
denies.
"""

import json
import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from testlib import TOP
from testlib.examples import (BINARY, EXAMPLES, NO_HOTPLUG, SOURCE,
                              check_console, linux_properties, make_source,
                              replaced, succeed)
from testlib.limits import HANG, until
from testlib.machine import DEVICE, TCG
from testlib.programs import run

DOMAIN = EXAMPLES / 'libvirt.xml'
QEMU_XML = 'http://libvirt.org/schemas/domain/qemu/1.0'

# As root, libvirtd would be that of the whole host, and not of a session.
NOBODY = ['unshare', '--user', '--map-user=65534', '--map-group=65534'] \
    if os.geteuid() == 0 else []


def domain_to_run(directory, binary, source):
    """Write the example, edited to run on this host; return its path."""
    ET.register_namespace('qemu', QEMU_XML)
    tree = ET.ElementTree(ET.fromstring(replaced(
        DOMAIN.read_text(), {BINARY: binary, SOURCE: source})))
    linux = linux_properties(directory)
    for name, prop in [('kernel', 'kernel'), ('initrd', 'initrd'),
                       ('cmdline', 'append')]:
        ET.SubElement(tree.find('os'), name).text = linux[prop]
    console = tree.find('devices/console')
    console.set('type', 'file')
    ET.SubElement(console, 'source', path=str(directory / 'console'))
    for value in ['-machine', 'x-vof=on', '-readconfig', str(TCG)]:
        ET.SubElement(tree.find(f'{{{QEMU_XML}}}commandline'),
                      f'{{{QEMU_XML}}}arg', value=value)
    tree.write(directory / 'domain.xml')
    return directory / 'domain.xml'


class Session:
    """A libvirtd of a user's session."""

    def __init__(self, directory):
        self._env = dict(os.environ, LC_ALL='C', HOME=str(directory),
                         PATH=f"{os.environ['PATH']}:/usr/sbin")
        for name in ['RUNTIME_DIR', 'CONFIG_HOME', 'CACHE_HOME', 'DATA_HOME']:
            self._env[f'XDG_{name}'] = str(directory / name)
        (directory / 'RUNTIME_DIR').mkdir()
        config = directory / 'CONFIG_HOME/libvirt/qemu.conf'
        config.parent.mkdir(parents=True)
        config.write_text('stdio_handler = "file"\n')
        self._socket = directory / 'RUNTIME_DIR/libvirt/libvirt-sock'
        with open(directory / 'libvirtd.log', 'wb') as log:
            # pylint: disable-next=consider-using-with
            self._daemon = subprocess.Popen(
                [*NOBODY, 'libvirtd'], env=self._env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)
        until(lambda: self._socket.exists() or self._daemon.poll() is not None)
        assert self._daemon.poll() is None, \
            (directory / 'libvirtd.log').read_text()

    def virsh(self, *command):
        """Run a command of virsh, which must succeed; return its output."""
        return succeed(*NOBODY, 'virsh', '-q', '-c', 'qemu:///session',
                       *command, env=self._env)

    def statistic(self, name):
        """A statistic of the domain's device."""
        answer = self.virsh('qemu-monitor-command', 'hrandom', json.dumps({
            'execute': 'qom-get', 'arguments': {
                'path': DEVICE, 'property': name}}))
        return json.loads(answer)['return']

    def is_off(self):
        """Whether the domain has ended."""
        return self.virsh('domstate', 'hrandom').strip() == 'shut off'

    def end(self):
        """End the domain, if it still runs, and then the daemon."""
        if 'hrandom' in self.virsh('list', '--name'):
            self.virsh('destroy', 'hrandom')
        self._daemon.terminate()
        self._daemon.wait(HANG)


@pytest.fixture
def session():
    """A session, in a directory with a short path.

    libvirt's sockets have long names, and the path of a socket has 107 bytes
    at most.
    """
    with tempfile.TemporaryDirectory() as directory:
        started = Session(Path(directory))
        yield started
        started.end()


def test_libvirt(session, installed, tmp_path):
    """The example is valid, libvirt runs it, and Linux gets random words."""
    succeed('virt-xml-validate', DOMAIN, 'domain')
    source = make_source(tmp_path)
    binary = installed / 'bin/qemu-system-ppc64'
    domain = domain_to_run(tmp_path, binary, source)
    command = session.virsh('domxml-to-native', 'qemu-argv', str(domain))
    assert f'{binary} ' in command
    assert f' -object rng-random,filename={source},id=rng0' \
        ' -device spapr-rng,rng=rng0,id=hrandom ' in command

    session.virsh('define', str(domain))
    said = session.virsh(
        'start hrandom; '
        'qemu-monitor-command hrandom --hmp "device_add spapr-rng"; '
        f'event --domain hrandom --event lifecycle --timeout {HANG}')
    assert f'Error: {NO_HOTPLUG}' in said
    assert 'Shutdown Finished after guest request' in said
    check_console((tmp_path / 'console').read_text(errors='replace'))

    # Start the domain again, to read statistics while the guest boots.
    until(session.is_off)
    session.virsh('start', 'hrandom')
    until(lambda: session.statistic('calls') >= 8)
    session.virsh('suspend', 'hrandom')
    assert session.statistic('bytes') >= 64
    assert session.statistic('timeouts') == 0
    session.virsh('destroy', 'hrandom')
    assert session.is_off()
    session.virsh('undefine', 'hrandom')


# The system daemon, whose directories and user are private to it. A character
# device of root's stands for /dev/hwrng, which not every host has: libvirt does
# not let a guest use it, either.
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
DENIED = '/dev/kmsg'
ARGUMENTS = '<qemu:commandline>.*?</qemu:commandline>'
ACL = 'cgroup_device_acl = ["/dev/null", "/dev/ptmx", "/dev/kmsg"]'


@pytest.mark.skipif(os.geteuid() != 0, reason='the system daemon needs root')
@pytest.mark.parametrize('way, starts', [
    ('argument', False), ('element', True), ('acl', True)])
def test_system(tmp_path, installed, way, starts):
    """A device that only an argument names is denied; both ways around work."""
    text = DOMAIN.read_text()
    if way == 'element':
        manual = (TOP / 'docs/system/ppc/spapr-rng.rst').read_text()
        arguments = re.findall(ARGUMENTS, manual, re.S)[-1]
        element, = re.findall('<rng .*?</rng>', manual, re.S)
        text = re.sub(ARGUMENTS, arguments, text, flags=re.S).replace(
            '</devices>', element.replace('/dev/hwrng', SOURCE) + '</devices>')
    text = text.replace(SOURCE, DENIED).replace(
        BINARY, str(installed / 'bin/qemu-system-ppc64')).replace(
        '</qemu:commandline>', ''.join(
            f'<qemu:arg value="{word}"/>'
            for word in ['-S', '-readconfig', TCG]) + '</qemu:commandline>')
    (tmp_path / 'domain.xml').write_text(text)

    with open(tmp_path / 'log', 'wb') as log, subprocess.Popen(
            ['unshare', '--mount', 'sh', '-euc', SYSTEM, 'sh',
             ACL if way == 'acl' else ''], stdout=log, stderr=log,
            env=dict(os.environ, PATH=f"{os.environ['PATH']}:/usr/sbin")
            ) as daemon:
        try:
            def virsh(*command):
                return run('nsenter', f'--mount=/proc/{daemon.pid}/ns/mnt',
                           'virsh', '-q', '-c', 'qemu:///system', *command)

            socket = Path(f'/proc/{daemon.pid}/root/run/libvirt/libvirt-sock')
            until(lambda: socket.exists() or daemon.poll() is not None)
            done = virsh('create', str(tmp_path / 'domain.xml'))
            assert (done.returncode == 0) == starts
            if not starts:
                assert f"Could not open '{DENIED}'" in done.stderr
            else:
                virsh('destroy', 'hrandom')
        finally:
            daemon.terminate()
