# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian as the guest, as guests/debian/build has made it."""

import base64
import subprocess

from testlib import GUESTS, OUT
from testlib.limits import HANG, until
from testlib.linux import JOB, Guest

DEBIAN = GUESTS / 'debian'
FULL = OUT / 'full'     # the QEMU that has a user network

# As long as many commands take, each of which hangs after HANG.
LONG = 10 * HANG

URANDOM = ['-object', 'rng-random,filename=/dev/urandom,id=rng0']
SPAPR_RNG = ['-device', 'spapr-rng,rng=rng0,id=hrandom']
USER_NETWORK = ['-nic', 'user']


def new_disk(directory):
    """A disk with a Debian that was never booted, and nothing to undo."""
    path = directory / 'disk'
    subprocess.run([FULL / 'qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
                    DEBIAN / 'disk.img', '-F', 'raw', path], check=True)
    return path


def debian_args(disk, log, append=''):
    """
    Arguments that have QEMU boot it, and write what it says meanwhile to log.

    The kernel's watchdog is off, which takes a busy host for a hanging guest.

    append: more for the kernel's command line
    """
    return ['-machine', 'x-vof=on', '-cpu', 'POWER9', '-m', '1G',
            '-kernel', str(DEBIAN / 'vmlinux'),
            '-initrd', str(DEBIAN / 'initrd'), '-append',
            'root=/dev/vda rw console=hvc0 nowatchdog '
            f'systemd.debug_shell=hvc1 {append}',
            '-serial', f'file:{log}',
            '-drive', f'file={disk},format=qcow2,if=virtio,cache=unsafe']


class Debian(Guest):
    """A booted Debian, with the test at a shell of systemd's on hvc1."""

    CONSOLE = 'spapr-vty'

    def wait_until_ready(self):
        """Wait for the shell, which comes early, and for the boot's end."""
        while b'# ' not in self._received:
            assert self._receive(LONG), 'no shell'
        print(self._received.decode(errors='replace'))
        self._received = b''
        job = base64.b64encode(JOB.encode()).decode()
        self.type(f'echo {job} | base64 -d >/run/job; echo; exec sh /run/job')
        self.lines_until('--- ready')
        state = self.run('systemctl is-system-running --wait', LONG)
        assert state == (['running'], 0), \
            self.run('systemctl --failed')

    def text(self, command, timeout=HANG):
        """What a command printed, which must not fail."""
        lines, status = self.run(command, timeout)
        assert status == 0, lines
        return '\n'.join(lines)

    def until(self, command):
        """Wait for the command to have the status 0."""
        until(lambda: self.run(command)[1] == 0, LONG)

    def assert_no_trouble(self):
        """The kernel had nothing to complain of."""
        assert self.run("dmesg | grep -E 'WARNING: CPU|BUG:|Oops'") == ([], 1)

    def boot_id(self):
        """Another one for each kernel that was started."""
        return self.text('cat /proc/sys/kernel/random/boot_id')

    def resets(self):
        """How often since the last time the guest had the machine reset."""
        return sum(event['event'] == 'RESET' and event['data']['guest']
                   for event in self.qemu.get_qmp_events())
