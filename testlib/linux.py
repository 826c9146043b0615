# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest, and its console."""

import gzip
import select
import subprocess
import time

from testlib import GUESTS
from testlib.limits import HANG
from testlib.machine import until_saved

# The driver that Linux draws from
CURRENT = '/sys/class/misc/hw_random/rng_current'

# Without data modprobe may not end: Linux takes the first bytes for itself,
# in its own thread and in modprobe's, and either may have to wait.
VIRTIO = ('modprobe virtio_pci; modprobe virtio-rng & '
          f'until grep -q virtio_rng {CURRENT}; do sleep 0.1; done')

# For a test that types commands; see Guest.
JOB = '''
stty -echo
echo '--- ready'
while read -r command; do
    eval "$command"
    echo "--- status $?"
done
'''


def cpio(root, names):
    """An archive of these files below root, as the kernel unpacks it."""
    return subprocess.run(['cpio', '-o', '--quiet', '-H', 'newc'], cwd=root,
                          input='\n'.join([*names, '']).encode(), check=True,
                          stdout=subprocess.PIPE).stdout


def initrd_with_job(kernel, directory, job, programs=()):
    """
    The guest's initramfs, with a script for its /init to run.

    programs: what else of the directory to put there
    """
    (directory / 'job').write_text(job)
    path = directory / 'initrd'
    path.write_bytes((GUESTS / f'linux-{kernel}/initrd.gz').read_bytes() +
                     gzip.compress(cpio(directory, ['job', *programs])))
    return path


def boot_args(kernel, initrd, vof=True):
    """
    Arguments that have QEMU boot that Linux.

    vof: not with SLOF, which takes 5 s longer
    """
    return ['-machine', f'x-vof={"on" if vof else "off"}',
            '-smp', '2', '-m', '1G',
            '-kernel', str(GUESTS / f'linux-{kernel}/vmlinux'),
            '-initrd', str(initrd), '-append', 'console=hvc0 loglevel=1']


def linux_args(kernel, directory, job=JOB, programs=(), **kwargs):
    """The same, and that have it run the job."""
    return boot_args(kernel, initrd_with_job(kernel, directory, job, programs),
                     **kwargs)


class Console:
    """
    The console of a machine that this launches.

    lines: what it has printed so far
    """

    CONSOLE = None  # the machine's first, or a device of this type

    def __init__(self, qemu, quiet=False):
        self.qemu = qemu
        self.lines = []
        self._quiet = quiet
        self._received = b''
        qemu.set_console(self.CONSOLE)
        qemu.launch()

    def _receive(self, timeout):
        if not select.select([self.qemu.console_socket], [], [], timeout)[0]:
            return False
        data = self.qemu.console_socket.recv(4096)
        assert data, 'QEMU has ended'
        self._received += data
        return True

    def lines_until(self, start, timeout=HANG):
        """The console's lines up to one that starts so, which is the last."""
        end = time.monotonic() + timeout
        first = len(self.lines)
        while not self.lines[first:] or not self.lines[-1].startswith(start):
            while b'\n' not in self._received:
                assert self._receive(max(end - time.monotonic(), 0)), \
                    f'no "{start}" within {timeout} s'
            line, _, self._received = self._received.partition(b'\n')
            self.lines.append(line.decode(errors='replace').rstrip('\r'))
            if not self._quiet:
                print(self.lines[-1])
        return self.lines[first:]


class Guest(Console):
    """
    A Linux guest that runs JOB, with the test at its console.

    incoming: the URI from which a guest comes to go on here
    """

    def __init__(self, qemu, incoming=None):
        if incoming:
            qemu.add_args('-incoming', incoming)
        super().__init__(qemu)
        if not incoming:
            self.wait_until_ready()

    def wait_until_ready(self):
        """Wait for the end of the boot."""
        self.lines_until('--- job begin')
        self.lines_until('--- ready')

    def save(self, path):
        """Migrate to a file. The guest is stopped then."""
        self.qemu.cmd('migrate', uri=f'file:{path}')
        until_saved(self.qemu)

    def type(self, command):
        """Start a command."""
        print('#', command)
        self.qemu.console_socket.sendall(f'{command}\n'.encode())

    def answer(self, timeout=HANG):
        """The lines that the command printed, and its status."""
        *lines, status = self.lines_until('--- status ', timeout)
        return lines, int(status.split()[-1])

    def run(self, command, timeout=HANG):
        """Type a command and return its answer."""
        self.type(command)
        return self.answer(timeout)

    def waits(self):
        """Whether the command neither ended nor printed anything so far."""
        return not self._received and not self._receive(0)

    def quit(self):
        """End QEMU. Returns QEMU's messages."""
        self.qemu.cmd('quit')
        self.qemu.wait(timeout=HANG)
        assert self.qemu.exitcode() == 0
        log = self.qemu.get_log()
        print(log)
        return log.splitlines()
