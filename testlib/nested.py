# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine (L2) under KVM in a Linux guest (L1) of the tested QEMU (L0)."""

import itertools
import json
import shutil
import subprocess

from testlib import GUESTS, OUT, bare_metal
from testlib.hcalls import COUNT, RAM_SIZE, RING_LENGTH
from testlib.limits import HANG
from testlib.linux import JOB, Guest, boot_args, cpio, initrd_with_job
from testlib.machine import TCG, device, machine, statistic
from testlib.programs import compile_c

KNOWN = 1024    # words in L1's file of that name

# For Linux as L2
LINUX_JOB = '''
echo "current $(cat /sys/class/misc/hw_random/rng_current)"
dd if=/dev/hwrng bs=64 count=4 2>/dev/null | hexdump -v -e '/1 "%02x"'
echo
'''

# For L1's shell; each QEMU that it starts has a number. What takes $hang s hangs.
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

# Opened for both, lest the shell wait for a QEMU that has ended; and before it
# is told to, lest its answer go with it
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

# ended NUMBER: wait for its end, and return its status
ended() {
    eval pid=\\$pid$1
    (sleep $hang; kill -9 $pid) 2>/dev/null &
    wait $pid
    result=$?
    kill $! 2>/dev/null
    return $result
}

# peek ADDRESS WORDS; poke ADDRESS takes the bytes from its input
peek() {
    dd if=ram bs=8 skip=$(($1 / 8)) count=$2 2>/dev/null |
        hexdump -v -e '8/1 "%02x" "\\n"'
}
poke() {
    dd of=ram bs=8 seek=$(($1 / 8)) conv=notrunc 2>/dev/null
}
'''


def l2_args(kernel):
    """What L2's QEMU needs for KVM in a guest of TCG."""
    # The pages of the newer kernels are of 4 KiB.
    pages = '' if kernel == '6.1' else ',cap-hpt-max-page-size=4096'
    return ('./qemu -nodefaults -display none -accel kvm -readconfig tcg.cfg '
            f'-machine pseries{pages}')


def shell_bytes(data):
    """A command that prints these bytes."""
    return "printf '" + ''.join(f'\\{byte:03o}' for byte in data) + "'"


def make_initrd(kernel, directory, image):
    """Linux, what L2s need, and the job that has us at the console."""
    linux = GUESTS / f'linux-{kernel}'
    root = directory / 'initrd.d'
    (root / 'root').mkdir(parents=True)
    for source, name in ((OUT / 'ppc64le/qemu-system-ppc64', 'qemu'),
                         (linux / 'vmlinux', 'vmlinux')):
        subprocess.run(['powerpc64le-linux-gnu-strip', '-o',
                        root / 'root' / name, source], check=True)
    compile_c('testlib/deny-enable-cap.c', root / 'root', '-static', '-s',
              compiler='powerpc64le-linux-gnu-gcc')
    shutil.copy(image, root / 'root/image')
    for file in ('/usr/share/qemu/vof.bin', TCG,
                 initrd_with_job(kernel, directory, LINUX_JOB)):
        shutil.copy(file, root / 'root')
    (root / 'root/known').write_bytes(bare_metal.source_bytes(0, KNOWN))
    (root / 'job').write_text(f'hang={HANG}\n{FUNCTIONS}{JOB}')
    archive = cpio(root, ['job', 'root', *(
        f'root/{path.name}' for path in (root / 'root').iterdir())])
    shutil.rmtree(root)
    path = directory / 'initrd'
    # Not compressed, as it would take L1 longer to unpack.
    path.write_bytes(archive + (linux / 'initrd.gz').read_bytes())
    return path


class L1(Guest):
    """Linux with KVM, and a directory for what L2 needs; starts L2s."""

    def __init__(self, directory, image, *args, kernel='6.1', cpu='POWER9'):
        self.kernel = kernel
        self.log_path = directory / 'l1-console'
        print(f'the console of L1 and the messages of L2 are in '
              f'{self.log_path}')
        super().__init__(machine(
            directory, '-cpu', cpu, '-machine', 'cap-nested-hv=on',
            *boot_args(kernel, make_initrd(kernel, directory, image)), *args,
            accel='tcg,thread=multi', name='l0'))

    def _receive(self, timeout):
        before = len(self._received)
        more = super()._receive(timeout)
        with open(self.log_path, 'ab') as log:
            log.write(self._received[before:])
        return more

    def sh(self, command, timeout=HANG):
        """The lines that a command prints, which must succeed."""
        lines, status = self.run(command, timeout)
        assert status == 0, f'{command}: {lines}; see {self.log_path}'
        return lines

    def feed(self, first, end):
        """Write these words of a source to the FIFO."""
        self.sh(f'{shell_bytes(bare_metal.source_bytes(first, end))} >fifo')

    def run_qemu(self, *args, wrapper=''):
        """QEMU with these arguments, to its end: its output and status."""
        number = next(L2.numbers)
        self.sh(f"start {number} {wrapper} {l2_args(self.kernel)} "
                f"{' '.join(args)}")
        _, status = self.run(f'ended {number}', 2 * HANG)
        return self.sh(f'cat log{number}'), status


class _Qemu:
    """As much of QEMUMachine as bare_metal.Guest uses, at L1's console."""

    def __init__(self, l1, number):
        self.l1 = l1
        self.number = number
        self._exitcode = None
        self.events = []

    def cmd(self, name, **arguments):
        """Have QEMU execute a QMP command."""
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
    """The bare-metal guest in L1."""

    numbers = itertools.count()

    def __init__(self, l1, *args, cpus=1, interrupts=False, memory_of=None,
                 wrapper='', **properties):
        # pylint: disable=super-init-not-called
        self.l1 = l1
        self.cpus = cpus
        self.number = next(self.numbers)
        self.qemu = _Qemu(l1, self.number)
        if not memory_of:
            l1.sh(f'rm -f ram; truncate -s {RAM_SIZE} ram')
            self._set_up(interrupts)
        l1.sh(' '.join([
            f'start {self.number} {wrapper} {l2_args(l1.kernel)}',
            *self.memory_args('ram'), f'-smp {cpus} -bios image',
            '-d trace:kvm_handle_papr_hcall -trace spapr_rng_in_kernel',
            '-device', device(**properties), *args]))
        # A FIFO keeps nothing before QEMU has opened it.
        l1.sh(f'read -r -t {HANG} line <>qmp{self.number}.out || '
              f'{{ cat log{self.number}; false; }}')
        self.qemu.cmd('qmp_capabilities')

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
        """What the device says about who serves the guest."""
        return statistic(self, 'in-kernel')

    def traced(self, event):
        """The texts of all such trace events."""
        return self.l1.run(f"sed -n 's/^{event} //p' trace{self.number}")[0]

    def vm_fd(self):
        """QEMU's file descriptor for the VM."""
        return int(self.l1.sh(
            f'ls -l /proc/$pid{self.number}/fd | '
            "sed -n 's/.* \\([0-9]*\\) -> .*kvm-vm.*/\\1/p'")[0])

    def exits(self):
        """How many H_RANDOM came to QEMU."""
        return int(self.l1.run(f'grep -c "0x300$" trace{self.number}')[0][0])

    def log(self):
        return '\n'.join(
            line for line in self.l1.sh(f'cat log{self.number}')
            # What QEMU says to the small pages of the newer Linux
            if not line.endswith('require at least 64kiB hpt-max-page-size'))

    def quit(self):
        self.qemu.cmd('quit')
        self.qemu.wait()
        assert self.qemu.exitcode() == 0, self.log()
