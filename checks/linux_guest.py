# SPDX-License-Identifier: GPL-2.0-or-later
"""What the checks with a Linux guest share."""

import gzip
import os
import select
import subprocess
import time

from bare_metal import HANG, until_saved

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


def initrd_with_job(guest, directory, job, programs=()):
    """
    The guest's initramfs, with a script for its /init to run.

    programs: what else of the directory to put there
    """
    (directory / 'job').write_text(job)
    path = directory / 'initrd'
    path.write_bytes((guest / 'initrd.gz').read_bytes() +
                     gzip.compress(cpio(directory, ['job', *programs])))
    return path


def linux_args(top, kernel, directory, job, vof=True, programs=()):
    """
    Arguments that have QEMU boot that Linux and run the job.

    vof: not with SLOF, which takes 5 s longer
    """
    guest = top / 'build/guests' / f'linux-{kernel}'
    return ['-machine', f'x-vof={"on" if vof else "off"}',
            '-smp', '2', '-m', '1G',
            '-kernel', str(guest / 'vmlinux'),
            '-initrd', str(initrd_with_job(guest, directory, job, programs)),
            '-append', 'console=hvc0 loglevel=1']


class Guest:
    """
    A Linux guest that runs JOB, with the test at its console.

    incoming: the URI from which a guest comes to go on here
    """

    CONSOLE = None  # the machine's first, or a device of this type

    def __init__(self, vm, incoming=None):
        self.vm = vm
        self._received = b''
        vm.set_console(self.CONSOLE)
        if incoming:
            vm.add_args('-incoming', incoming)
        vm.launch()
        if not incoming:
            self.wait_until_ready()

    def wait_until_ready(self):
        """Wait for the end of the boot."""
        self.lines_until('--- job begin')
        self.lines_until('--- ready')

    def save(self, path):
        """Migrate to a file. The guest is stopped then."""
        self.vm.cmd('migrate', uri=f'file:{path}')
        until_saved(self.vm)

    def _receive(self, timeout):
        if not select.select([self.vm.console_socket], [], [], timeout)[0]:
            return False
        data = self.vm.console_socket.recv(4096)
        assert data, 'QEMU has ended'
        self._received += data
        return True

    def lines_until(self, start, timeout=HANG):
        """The console's lines up to one that starts so, which is the last."""
        end = time.monotonic() + timeout
        lines = []
        while not lines or not lines[-1].startswith(start):
            while b'\n' not in self._received:
                assert self._receive(max(end - time.monotonic(), 0)), \
                    f'no "{start}" within {timeout} s'
            line, _, self._received = self._received.partition(b'\n')
            lines.append(line.decode(errors='replace').rstrip('\r'))
            print(lines[-1])
        return lines

    def type(self, command):
        """Start a command."""
        print('#', command)
        self.vm.console_socket.sendall(f'{command}\n'.encode())

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

    def load(self, seconds=2):
        """How much of a core QEMU uses."""
        def used():
            with open(f'/proc/{self.vm.get_pid()}/stat',
                      encoding='ascii') as stat:
                return sum(map(int, stat.read().rpartition(')')[2]
                               .split()[11:13]))

        before = used()
        start = time.monotonic()
        time.sleep(seconds)
        taken = time.monotonic() - start
        return (used() - before) / os.sysconf('SC_CLK_TCK') / taken

    def quit(self):
        """End QEMU. Returns QEMU's messages."""
        self.vm.cmd('quit')
        self.vm.wait(timeout=HANG)
        assert self.vm.exitcode() == 0
        log = self.vm.get_log()
        print(log)
        return log.splitlines()
