# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian as the guest, which guests/debian/build installs."""

import base64
import subprocess

from testlib import GUESTS, OUT
from testlib.limits import HANG, until
from testlib.linux import JOB, Guest

DEBIAN = GUESTS / 'debian'
FULL = OUT / 'full'     # the build of QEMU that has user networking

# The time limit for many commands, each of which hangs after HANG
LONG = 10 * HANG


def new_disk(directory):
    """Make a disk on top of the installed one; return its path.

    The installed disk is never booted, and does not change.
    """
    path = directory / 'disk'
    subprocess.run([FULL / 'qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
                    DEBIAN / 'disk.img', '-F', 'raw', path], check=True)
    return path


def debian_args(disk, log):
    """
    The arguments that make QEMU boot Debian, and write the console to `log`.

    The kernel's watchdog is off: on a busy host, it would report a hang.
    """
    return ['-machine', 'x-vof=on', '-cpu', 'POWER9', '-m', '1G', '-smp', '2',
            '-kernel', str(DEBIAN / 'vmlinux'),
            '-initrd', str(DEBIAN / 'initrd'), '-append',
            'root=/dev/vda rw console=hvc0 nowatchdog '
            'systemd.debug_shell=hvc1',
            '-serial', f'file:{log}', '-nic', 'user',
            '-drive', f'file={disk},format=qcow2,if=virtio,cache=unsafe']


class Debian(Guest):
    """A booted Debian, where a check types commands at systemd's debug shell.

    The shell is on the console hvc1.
    """

    CONSOLE = 'spapr-vty'

    def wait_until_ready(self):
        """Wait for the shell, which starts early, and for the boot's end."""
        while b'# ' not in self._received:
            assert self._receive(LONG), 'no shell'
        print(self._received.decode(errors='replace'))
        self._received = b''
        job = base64.b64encode(JOB.encode()).decode()
        self.type(f'echo {job} | base64 -d >/run/job; echo; exec sh /run/job')
        self.lines_until('--- ready')
        state = self.run('systemctl is-system-running --wait', LONG)
        assert state == (['running'], 0), self.run('systemctl --failed')

    def until(self, command):
        """Repeat a command until it succeeds."""
        until(lambda: self.run(command)[1] == 0, LONG)

    def assert_no_trouble(self):
        """Check that the kernel has reported no bug."""
        assert self.run("dmesg | grep -E 'WARNING: CPU|BUG:|Oops'") == ([], 1)
