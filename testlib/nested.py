# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine (L2) under KVM in a Linux guest (L1) of the tested QEMU (L0)."""

import itertools
import json
import shlex
import shutil
import subprocess

from testlib import GUESTS, OUT, bare_metal
from testlib.hcalls import COUNT, INTERRUPTS, RAM_SIZE, RING_LENGTH
from testlib.limits import HANG
from testlib.linux import JOB, Guest, boot_args, cpio, initrd_with_job
from testlib.machine import TCG, device, machine, statistic
from testlib.programs import compile_for_guest

KNOWN = 1024    # words in L1's file of that name

# Functions for the shell in L1. Each QEMU that L1 starts has a number. A step
# that takes $hang seconds hangs.
FUNCTIONS = '''
modprobe kvm-hv
[ -c /dev/kvm ] || echo 'no /dev/kvm'
cd /root
mkfifo fifo
exec 8<>fifo

# start NUMBER ARGUMENT...
start() {
    number=$1
    shift
    mkfifo qmp$number.in qmp$number.out
    "$@" -qmp pipe:qmp$number -D trace$number </dev/null >log$number 2>&1 &
    eval pid$number=$!
}

# qmp NUMBER COMMAND: print the answer, and the events that come before it.
# Opening the FIFOs for reading and writing does not wait, even if QEMU has
# ended. The FIFO of the answers is opened before the command is sent: a FIFO
# that no process has open loses its data.
qmp() {
    {
        printf '%s\\n' "$2" 1<>qmp$1.in
        while read -r -t $hang line; do
            echo "$line"
            case $line in
            '{"return"'*|'{"error"'*) return ;;
            esac
        done
    } <>qmp$1.out
    return 1
}

# type_in NUMBER COMMAND: type a command at the console of Linux
type_in() {
    printf '%s\\n' "$2" 1<>console$1.in
}

# lines_until NUMBER START: print the output of Linux, up to a line that begins
# with START
lines_until() {
    while read -r -t $hang line; do
        echo "L2 $line"
        case $line in
        "$2"*) return ;;
        esac
    done <>console$1.out
    return 1
}

# ended NUMBER: wait for the end of that QEMU, and return its status
ended() {
    eval pid=\\$pid$1
    (sleep $hang; kill -9 $pid) 2>/dev/null &
    wait $pid
    result=$?
    kill $! 2>/dev/null
    return $result
}

# peek ADDRESS WORDS: print words of L2's memory
# poke ADDRESS: write the bytes of the standard input to L2's memory
peek() {
    dd if=ram bs=8 skip=$(($1 / 8)) count=$2 2>/dev/null |
        hexdump -v -e '8/1 "%02x" "\\n"'
}
poke() {
    dd of=ram bs=8 seek=$(($1 / 8)) conv=notrunc 2>/dev/null
}
'''


def l2_args(kernel):
    """The command of L2's QEMU, with the options for KVM in a TCG guest."""
    # The newer kernels have pages of 4 KiB.
    pages = '' if kernel == '6.1' else ',cap-hpt-max-page-size=4096'
    return ('./qemu -nodefaults -display none -accel kvm -readconfig tcg.cfg '
            f'-machine pseries{pages}')


def shell_bytes(data):
    """A shell command that prints these bytes."""
    return "printf '" + ''.join(f'\\{byte:03o}' for byte in data) + "'"


def make_initrd(kernel, directory, image):
    """Write L1's initramfs: Linux, the files of L2s, and the job of Guest."""
    linux = GUESTS / f'linux-{kernel}'
    root = directory / 'initrd.d'
    (root / 'root').mkdir(parents=True)
    for source, name in ((OUT / 'ppc64le/qemu-system-ppc64', 'qemu'),
                         (linux / 'vmlinux', 'vmlinux')):
        subprocess.run(['powerpc64le-linux-gnu-strip', '-o',
                        root / 'root' / name, source], check=True)
    for source, target in (('testlib/deny-enable-cap.c', root / 'root'),
                           ('guests/ipi-times.c', directory)):
        compile_for_guest(source, target, '-s', '-pthread')
    shutil.copy(image, root / 'root/image')
    for file in ('/usr/share/qemu/vof.bin', TCG,
                 initrd_with_job(kernel, directory, JOB, ['ipi-times'])):
        shutil.copy(file, root / 'root')
    (root / 'root/known').write_bytes(bare_metal.source_bytes(0, KNOWN))
    (root / 'job').write_text(f'hang={HANG}\n{FUNCTIONS}{JOB}')
    archive = cpio(root, ['job', 'root', *(
        f'root/{path.name}' for path in (root / 'root').iterdir())])
    shutil.rmtree(root)
    path = directory / 'initrd'
    # The archive is not compressed, because L1 would be slow to unpack it.
    path.write_bytes(archive + (linux / 'initrd.gz').read_bytes())
    return path


class L1(Guest):
    """A Linux guest with KVM, which starts L2s in a directory of its own."""

    def __init__(self, directory, image, *args, kernel='6.1', cpu='POWER9',
                 api='hv'):
        self.kernel = kernel
        self.log_path = directory / 'l1-console'
        print(f'the console of L1 and the messages of L2 are in '
              f'{self.log_path}')
        super().__init__(machine(
            directory, '-cpu', cpu, '-machine', f'cap-nested-{api}=on',
            *boot_args(kernel, make_initrd(kernel, directory, image)), *args,
            accel='tcg,thread=multi', name='l0'))

    def _receive(self, timeout):
        before = len(self._received)
        more = super()._receive(timeout)
        with open(self.log_path, 'ab') as log:
            log.write(self._received[before:])
        return more

    def start(self, number, *args, wrapper=''):
        """Start the QEMU of this number with these arguments."""
        self.sh(' '.join([f'start {number} {wrapper} {l2_args(self.kernel)}',
                          *args]))

    def feed(self, first, end):
        """Write words of a source, from `first` up to `end`, to the FIFO."""
        self.sh(f'{shell_bytes(bare_metal.source_bytes(first, end))} >fifo')

    def run_qemu(self, *args, wrapper=''):
        """Run QEMU to its end; return its output and its status."""
        number = next(_Qemu.numbers)
        self.start(number, *args, wrapper=wrapper)
        _, status = self.run(f'ended {number}', 2 * HANG)
        return self.sh(f'cat log{number}'), status


class _Qemu:
    """The part of QEMUMachine that bare_metal.Guest uses, for a QEMU in L1."""

    numbers = itertools.count()

    def __init__(self, l1):
        self.l1 = l1
        self.number = next(self.numbers)
        self._exitcode = None
        self.events = []

    def launch(self, *args, wrapper=''):
        """Start QEMU with these arguments, and wait for its monitor."""
        self.l1.start(self.number, *args, wrapper=wrapper)
        # Wait for QMP's greeting: QEMU has then opened its FIFOs.
        self.l1.sh(f'read -r -t {HANG} line <>qmp{self.number}.out || '
                   f'{{ cat log{self.number}; false; }}')
        self.cmd('qmp_capabilities')

    def cmd(self, name, **arguments):
        """Have QEMU execute a QMP command; in names, _ means -."""
        arguments = {key.replace('_', '-'): value
                     for key, value in arguments.items()}
        command = json.dumps({'execute': name, 'arguments': arguments})
        for line in self.l1.sh(f"qmp {self.number} '{command}'"):
            message = json.loads(line)
            if 'event' in message:
                self.events.append(message['event'])
        assert 'return' in message, f'{line}; see {self.l1.log_path}'
        return message['return']

    def wait(self):
        _, self._exitcode = self.l1.run(f'ended {self.number}', 2 * HANG)

    def exitcode(self):
        return self._exitcode


class L2(bare_metal.Guest):
    """
    The bare-metal guest as an L2.

    undisturbed: the vCPUs that take no interrupts in spite of `interrupts`
    """

    def __init__(self, l1, *args, cpus=1, interrupts=False, undisturbed=(),
                 memory_of=None, wrapper='', **properties):
        # pylint: disable=super-init-not-called
        self.l1 = l1
        self.cpus = cpus
        self.qemu = _Qemu(l1)
        self.number = self.qemu.number
        if not memory_of:
            l1.sh(f'rm -f ram; truncate -s {RAM_SIZE} ram')
            self._set_up(interrupts)
            for cpu in undisturbed:
                self.set(cpu, INTERRUPTS, 0)
        self.qemu.launch(
            *self.memory_args('ram'), f'-smp {cpus} -bios image',
            '-d trace:kvm_handle_papr_hcall -trace spapr_rng_in_kernel',
            '-device', device(**{'health_test': 'off', **properties}), *args,
            wrapper=wrapper)

    def _peek(self, address):
        return int(self.l1.sh(f'peek {address} 1')[0], 16)

    def _poke(self, address, value):
        self.l1.sh(f"{shell_bytes(value.to_bytes(8, 'big'))} | "
                   f'poke {address}')

    def results(self, cpu=0):
        count = self.get(cpu, COUNT)
        assert count <= RING_LENGTH
        words = [int(line, 16) for line in self.l1.sh(
            f'peek {(cpu + 1) << 20} {2 * count}')] if count else []
        return list(zip(words[::2], words[1::2]))

    def in_kernel(self):
        """Whether KVM in L1 answers the guest's calls, says the device."""
        return statistic(self, 'in-kernel')

    def traced(self, event):
        """The texts of all trace events of this name."""
        return self.l1.run(f"sed -n 's/^{event} //p' trace{self.number}")[0]

    def vm_fd(self):
        """QEMU's file descriptor for the VM."""
        return int(self.l1.sh(
            f'ls -l /proc/$pid{self.number}/fd | '
            "sed -n 's/.* \\([0-9]*\\) -> .*kvm-vm.*/\\1/p'")[0])

    def count_traced(self, end):
        """How many lines of the trace end with these words."""
        return int(self.l1.run(f'grep -c "{end}$" trace{self.number}')[0][0])

    def exits(self):
        """How many H_RANDOM calls made the vCPUs exit to QEMU."""
        return self.count_traced('0x300')

    def log(self):
        return '\n'.join(
            line for line in self.l1.sh(f'cat log{self.number}')
            # QEMU's warning about the small pages of the newer kernels
            if not line.endswith('require at least 64kiB hpt-max-page-size'))

    def quit(self):
        self.qemu.cmd('quit')
        self.qemu.wait()
        assert self.qemu.exitcode() == 0, self.log()


class LinuxL2:
    """Linux as an L2, with the test at its console."""

    def __init__(self, l1, *args, cpus='1'):
        self.l1 = l1
        self.qemu = _Qemu(l1)
        self.number = self.qemu.number
        l1.sh(f'mkfifo console{self.number}.in console{self.number}.out')
        self.qemu.launch(
            f'-L . -machine x-vof=on -m 512M -smp {cpus} -kernel vmlinux',
            '-initrd initrd -append "console=hvc0 loglevel=1"',
            f'-serial pipe:console{self.number}', *args)
        self.lines_until('--- ready')

    def lines_until(self, start):
        """The lines that Linux prints, up to one that begins with `start`."""
        lines = self.l1.sh(
            f'lines_until {self.number} {shlex.quote(start)}', 2 * HANG)
        return [line.removeprefix('L2 ').rstrip('\r') for line in lines]

    def type(self, command):
        """Start a command."""
        self.l1.sh(f'type_in {self.number} {shlex.quote(command)}')

    def answer(self):
        """The output of the command, which must succeed."""
        *lines, status = self.lines_until('--- status ')
        assert status == '--- status 0', f'{lines}; see {self.l1.log_path}'
        return lines

    def sh(self, command):
        """Run a command, which must succeed; return its output."""
        self.type(command)
        return self.answer()

    def quit(self):
        """End QEMU, which must not wait for anything."""
        # Linux goes on after most of its faults.
        assert self.sh('cat /proc/sys/kernel/tainted') == ['0']
        self.qemu.cmd('quit')
        self.qemu.wait()
        assert self.qemu.exitcode() == 0
