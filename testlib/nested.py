# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine (L2) under KVM in a Linux guest (L1) of the tested QEMU (L0)."""

import select
import shutil
import socket
import subprocess

from qemu.machine import QEMUMachine
from qemu.qmp.legacy import QEMUMonitorProtocol

from testlib import GUESTS, OUT, bare_metal, linux
from testlib.hcalls import RAM_SIZE
from testlib.limits import HANG
from testlib.machine import TCG, device, machine
from testlib.programs import compile_for_guest

KNOWN = 1024    # words in L1's file of that name

# The job of L1. While file descriptor 8 is open, the FIFO has a writer.
JOB = f'''
modprobe kvm-hv
cd /root
mkfifo fifo
exec 8<>fifo
{linux.JOB}'''


def shell_bytes(data):
    """A shell command that prints these bytes."""
    return "printf '" + ''.join(f'\\{byte:03o}' for byte in data) + "'"


def l1_args(kernel, directory, image):
    """Boot Linux as L1, with the files of L2s, and with the job of a Guest."""
    guest = GUESTS / f'linux-{kernel}'
    root = directory / 'root'
    root.mkdir()
    for source, name in ((OUT / 'ppc64le/qemu-system-ppc64', 'qemu'),
                         (guest / 'vmlinux', 'vmlinux')):
        subprocess.run(['powerpc64le-linux-gnu-strip', '-o', root / name,
                        source], check=True)
    compile_for_guest('testlib/deny-enable-cap.c', root, '-s')
    shutil.copy(image, root / 'image')
    for file in ('/usr/share/qemu/vof.bin', TCG,
                 linux.initrd_with_job(kernel, directory, linux.JOB)):
        shutil.copy(file, root)
    (root / 'known').write_bytes(bare_metal.source_bytes(0, KNOWN))
    files = ['root', *(f'root/{path.name}' for path in root.iterdir())]
    return linux.linux_args(kernel, directory, JOB, files)


class L1(linux.Guest):
    """
    A Linux guest with KVM, which starts one L2 at a time.

    Two terminals of L1 are L2's: hvc1 is its monitor, and hvc2 its console.
    """

    def __init__(self, directory, image, *args, kernel='6.1', cpu='POWER9',
                 api='hv'):
        self._directory = directory
        self._connections = {}
        # The newer kernels have pages of 4 KiB.
        pages = '' if kernel == '6.1' else ',cap-hpt-max-page-size=4096'
        self.l2_command = ('./qemu -nodefaults -display none -accel kvm '
                           f'-readconfig tcg.cfg -machine pseries{pages}')
        for name in ('monitor', 'console'):
            args += '-serial', f'unix:{directory}/{name},server=on,wait=off'
        super().__init__(machine(
            directory, '-cpu', cpu, '-machine', f'cap-nested-{api}=on',
            *l1_args(kernel, directory, image), *args,
            accel='tcg,thread=multi', name='l0'))

    def connect(self, name):
        """A connection to a terminal, which ends that of the last L2."""
        if name in self._connections:
            self._connections[name].shutdown(socket.SHUT_RDWR)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._directory / name))
        self._connections[name] = connection
        return connection.dup()

    def feed(self, first, end):
        """Write words of a source, from `first` up to `end`, to the FIFO."""
        self.sh(f'{shell_bytes(bare_metal.source_bytes(first, end))} >fifo')


class _Qemu(QEMUMachine):
    """A QEMU that L1 runs."""

    def __init__(self, l1, *args, wrapper=''):
        self._l1 = l1
        self._command = ' '.join([wrapper, l1.l2_command, *args])
        self._status = None
        super().__init__('./qemu')

    def launch(self):
        monitor = self._l1.connect('monitor')
        self._console_socket = self._l1.connect('console')
        self._l1.sh(f'{self._command} -qmp /dev/hvc1 </dev/null >log 2>&1 & '
                    'pid=$!')
        assert select.select([monitor], [], [], HANG)[0], self.get_log()
        self._qmp_connection = QEMUMonitorProtocol(monitor)
        self._qmp_connection.connect()
        self._qmp.settimeout(HANG)

    def wait(self, timeout=HANG):
        _, self._status = self._l1.run(
            f'(sleep {timeout}; kill -9 $pid) 2>/dev/null & wait $pid',
            2 * timeout)
        self._qmp.close()

    def exitcode(self):
        return self._status

    def get_log(self):
        return '\n'.join(
            line for line in self._l1.sh('cat log')
            # QEMU's warning about the small pages of the newer kernels
            if not line.endswith('require at least 64kiB hpt-max-page-size'))


class L2(bare_metal.Guest):
    """
    The bare-metal guest as an L2.

    incoming: it continues the L2 before it, with its memory
    """

    def __init__(self, l1, *args, cpus=1, incoming=False, wrapper='',
                 **properties):
        # pylint: disable=super-init-not-called
        self.l1 = l1
        self.cpus = cpus
        if incoming:
            args += ('-incoming defer',)
        else:
            l1.sh(f'rm -f ram; truncate -s {RAM_SIZE} ram')
            self._set_up(interrupts=False)
        self.qemu = _Qemu(
            l1, *self.memory_args('ram'), f'-smp {cpus} -bios image -D trace',
            '-d trace:kvm_handle_papr_hcall -trace spapr_rng_in_kernel',
            '-device', device(**{'health_test': 'off', **properties}), *args,
            wrapper=wrapper)
        self.qemu.launch()

    def _words(self, address, count):
        return [int(line, 16) for line in self.l1.sh(
            f'dd if=ram bs=8 skip={address // 8} count={count} 2>/dev/null | '
            "hexdump -v -e '8/1 \"%02x\" \"\\n\"'")]

    def _poke(self, address, value):
        self.l1.sh(f"{shell_bytes(value.to_bytes(8, 'big'))} | dd of=ram bs=8 "
                   f'seek={address // 8} conv=notrunc 2>/dev/null')

    def count_traced(self, pattern):
        """How many lines of the trace end with this pattern."""
        return int(self.l1.run(f'grep -c "{pattern}$" trace')[0][0])

    def exits(self):
        """How many H_RANDOM calls made the vCPUs exit to QEMU."""
        return self.count_traced('0x300')

    def log(self):
        return self.qemu.get_log()


class LinuxL2(linux.Guest):
    """Linux as an L2, with the test at its console."""

    def __init__(self, l1, *args, cpus='1'):
        super().__init__(_Qemu(
            l1, f'-L . -machine x-vof=on -m 512M -smp {cpus} -kernel vmlinux',
            '-initrd initrd -append "console=hvc0 loglevel=1"',
            '-serial /dev/hvc2', *args))

    def quit(self):
        # Linux goes on after most of its faults.
        assert self.sh('cat /proc/sys/kernel/tainted') == ['0']
        return super().quit()
