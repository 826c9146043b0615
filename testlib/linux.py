# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest that a check talks to by its console."""

import select
import subprocess
import time

from testlib import GUESTS
from testlib.limits import HANG
from testlib.machine import until_saved

# The driver that /dev/hwrng reads from
CURRENT = '/sys/class/misc/hw_random/rng_current'

# Load virtio-rng. Without data, modprobe may not end: Linux reads the first
# bytes for itself, in a thread of its own and in the process of modprobe, and
# both may have to wait.
VIRTIO = ('modprobe virtio_pci; modprobe virtio-rng & '
          f'until grep -q virtio_rng {CURRENT}; do sleep 0.1; done')

# The job of a Guest: execute the commands that a check types.
JOB = '''
stty -echo
echo '--- ready'
while read -r command; do
    eval "$command"
    echo "--- status $?"
done
'''


def read_hwrng(size):
    """A command that prints bytes of /dev/hwrng as hexadecimal digits."""
    return (f'dd if=/dev/hwrng bs={size} count=1 2>/dev/null | '
            "hexdump -v -e '/1 \"%02x\"'; echo")


def words_of(data):
    """The bytes in the order of the source: Linux stores words reversed."""
    return b''.join(data[i:i + 8][::-1] for i in range(0, len(data), 8))


def initrd_with_job(kernel, directory, job, programs=()):
    """
    Write the guest's initramfs with a job, a script that its /init runs.

    programs: names of further files of the directory to add
    """
    (directory / 'job').write_text(job)
    names = '\n'.join(['job', *programs, ''])
    # This is not compressed, which a guest with TCG would be slow to unpack.
    archive = subprocess.run(
        ['cpio', '-o', '--quiet', '-H', 'newc'], cwd=directory, check=True,
        input=names.encode(), stdout=subprocess.PIPE).stdout
    guest = GUESTS / f'linux-{kernel}/initrd.gz'
    path = directory / 'initrd'
    path.write_bytes(archive + guest.read_bytes())
    return path


def linux_args(kernel, directory, job=JOB, programs=()):
    """The arguments that make QEMU boot Linux, and Linux run a job.

    SLOF, QEMU's default firmware, takes 5 s longer than VOF.
    """
    initrd = initrd_with_job(kernel, directory, job, programs)
    return ['-machine', 'x-vof=on', '-smp', '2', '-m', '1G',
            '-kernel', str(GUESTS / f'linux-{kernel}/vmlinux'),
            '-initrd', str(initrd), '-append', 'console=hvc0 loglevel=1']


class Console:
    """
    The console of a machine, which this class launches.

    lines: the lines that the console has printed so far
    """

    CONSOLE = None  # the type of the console device; None: the machine's first

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
        """Wait for a line that begins with `start`; return the new lines."""
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
    A Linux guest that runs JOB, so that a check can type commands.

    incoming: the URI from which a running guest migrates to this machine
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
        """Migrate to a file, which stops the guest.

        QEMU 7.2 lacks the protocol "file".
        """
        self.qemu.cmd('migrate', uri=f'exec:cat >{path}')
        until_saved(self.qemu)

    def type(self, command):
        """Type a command, without waiting for its end."""
        print('#', command)
        self.qemu.console_socket.sendall(f'{command}\n'.encode())

    def answer(self, timeout=HANG):
        """Wait for a command's end; return its output and its status."""
        *lines, status = self.lines_until('--- status ', timeout)
        return lines, int(status.split()[-1])

    def run(self, command, timeout=HANG):
        """Run a command; return its output and its status."""
        self.type(command)
        return self.answer(timeout)

    def sh(self, command, timeout=HANG):
        """Run a command, which must succeed; return its output."""
        lines, status = self.run(command, timeout)
        assert status == 0, f'{command}: {lines}'
        return lines

    def quit(self):
        """End QEMU; return its messages, without its name and severities."""
        self.qemu.cmd('quit')
        self.qemu.wait(timeout=HANG)
        assert self.qemu.exitcode() == 0
        log = self.qemu.get_log()
        print(log)
        return [line.split(': ', 2)[-1] for line in log.splitlines()]
