# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of guests/bare-metal/hcalls.S, whose memory it shares."""

import array
import faulthandler
import fcntl
import itertools
import mmap
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

H_SUCCESS = 0
H_HARDWARE = 2 ** 64 - 1
H_FUNCTION = 2 ** 64 - 2
H_RANDOM = 0x300
H_NOBODYS = 0x12c   # answered with H_FUNCTION: the cheapest hypercall there is
H_JOIN = 0x298
H_RTAS = 0xf000

RTAS_START_CPU = 0x2006

TB_HZ = 512000000
RAM_SIZE = 256 << 20
RING_LENGTH = 65536
DURATIONS = 131072

CPUS = 0x10000
RTAS_ARGS = 0x10040     # of the last start-cpu, at the machine's start
HOST_RTAS_ARGS = 0x10080
BLOCKS = 0x11000
BLOCK_SIZE = 0x100
(GO, DONE, CALLS, OPCODE, RECORD, INTERRUPTS, INTERVAL, START, END, COUNT,
 DAMAGE, TICKS, LAST, SUM, XOR, FAULTS, CHECKED, LEAVE, ARGUMENT, INNER,
 INNER_OPCODE, INNER_STACK, INNER_START, INNER_END, INNER_COUNT, INNER_STATUS,
 INNER_VALUE, HOLD, HELD, AWAY, RAN) = range(0, 248, 8)

CHECK = 2   # for RECORD
TIME = 3

SPIN = 1    # for HOLD
STOP = 2

# What takes as many seconds hangs. A busy machine may stretch for long what is
# quick on an idle one, so that no time shows how fast something is: counts do,
# ratios within a process, and times that must not be shorter.
HANG = 180


def build(source, directory):
    """Make the image that QEMU loads."""
    elf, image = directory / 'hcalls.elf', directory / 'hcalls.bin'
    for command in (
            ['powerpc64-linux-gnu-gcc', '-nostdlib', '-static', '-mcpu=power9',
             '-Wa,-mregnames', '-Wl,-Ttext=0,-e0x100,--build-id=none',
             '-o', elf, source],
            ['powerpc64-linux-gnu-objcopy', '-O', 'binary', '-j', '.text',
             elf, image]):
        subprocess.run(command, check=True)
    return image


def word(i):
    """Word i of a source; 64 bits that no other i has."""
    return (i + 1) * 0x9e3779b97f4a7c15 % 2 ** 64


def source_bytes(first, end):
    return struct.pack(f'>{end - first}Q', *map(word, range(first, end)))


def until(condition, seconds=HANG):
    """Wait for what should come long before."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


@contextmanager
def within(seconds):
    """
    Interrupts what takes longer, so that nothing hangs.

    Signals come to the main thread. pytest-xdist may run checks in another
    one: there, the whole worker ends, and the check is reported as failed.
    """
    def late(*_):
        raise AssertionError(f'not done within {seconds} s')

    if threading.current_thread() is not threading.main_thread():
        # sys.stderr is pytest's there, and may be no file.
        faulthandler.dump_traceback_later(seconds, exit=True,
                                          file=sys.__stderr__)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        return

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ioctl_int(file, request):
    """The int that an ioctl(2) of a file gives."""
    return struct.unpack('i', fcntl.ioctl(file, request, bytes(4)))[0]


def cpu_seconds(pid):
    """The processor time that a process has used."""
    # The clock of clock_getcpuclockid(3), which Python hasn't got; the ticks
    # in /proc/PID/stat are too coarse.
    return time.clock_gettime(~pid << 3 | 2)


def hmp(vm, command):
    """A command of the human monitor that has nothing to say."""
    assert vm.cmd('human-monitor-command', command_line=command) == ''


def statistic(vm, name):
    """What a guest's device, which has the id d, has counted."""
    return vm.vm.cmd('qom-get', path='/machine/peripheral/d', property=name)


def migration(vm):
    """How far a migration has come, which must not fail."""
    status = vm.cmd('query-migrate').get('status')
    assert status != 'failed'
    return status


def until_saved(vm):
    """Wait for the end of a migration; until then, "cont" is refused."""
    until(lambda: migration(vm) == 'completed' and
          vm.cmd('query-status')['status'] == 'postmigrate')


def add_disk(vm, directory):
    """A disk that can hold snapshots."""
    file = directory / 'disk'
    file.touch()
    vm.cmd('blockdev-add', driver='file', filename=str(file),
           node_name='file')
    vm.cmd('blockdev-create', job_id='job', options={
        'driver': 'qcow2', 'file': 'file', 'size': 1 << 20})
    vm.event_wait('JOB_STATUS_CHANGE', match={'data': {'status': 'concluded'}})
    vm.cmd('job-dismiss', id='job')
    vm.cmd('blockdev-add', driver='qcow2', file='file', node_name='disk')


class Guest:
    """
    A machine with the device, its source `backend`, and the program; without
    a backend, also without the device.
    """

    _number = itertools.count()

    def __init__(self, make, image, directory, backend, *args, device='',
                 cpus=1, interrupts=False, ram=None, **kwargs):
        self.cpus = cpus
        self.has_device = backend is not None
        name = f'qemu{next(self._number)}'
        self.log_path = directory / f'{name}.log'
        self.ram = ram or directory / f'{name}.ram'
        with open(self.ram, 'ab+') as file:
            file.truncate(RAM_SIZE)
            memory = mmap.mmap(file.fileno(), RAM_SIZE)
        # Whole words, lest one be seen while the guest changes it
        self._words = memoryview(memory).cast('Q')
        if not ram:
            self._poke(CPUS, cpus)
            for cpu in range(cpus):
                self.set(cpu, INTERRUPTS, interrupts)
                self.set(cpu, INTERVAL, TB_HZ // 1000)

        rng = ['-object', f'{backend},id=rng0',
               '-device', f'spapr-rng,rng=rng0{device}'] if backend else []
        self.vm = make(
            '-bios', str(image), '-smp', str(cpus), '-m', f'{RAM_SIZE >> 20}M',
            '-object', 'memory-backend-file,id=ram,share=on,'
            f'size={RAM_SIZE},mem-path={self.ram}',
            '-machine', 'memory-backend=ram',
            *rng, *args, name=name, **kwargs)
        self.vm.launch()

    def _peek(self, address):
        word = self._words[address // 8]
        return int.from_bytes(word.to_bytes(8, sys.byteorder), 'big')

    def _peek32(self, address):
        word = self._peek(address & ~7)
        return word & 0xffffffff if address & 4 else word >> 32

    def _poke(self, address, value):
        self._words[address // 8] = int.from_bytes(value.to_bytes(8, 'big'),
                                                   sys.byteorder)

    def _ring(self, cpu, length):
        """The first words of that vCPU's ring."""
        first = (cpu + 1) << 17
        words = array.array('Q', self._words[first:first + length].tobytes())
        if sys.byteorder == 'little':
            words.byteswap()
        return words

    def get(self, cpu, field):
        return self._peek(BLOCKS + cpu * BLOCK_SIZE + field)

    def set(self, cpu, field, value):
        self._poke(BLOCKS + cpu * BLOCK_SIZE + field, value)

    def call(self, calls=1, opcode=H_RANDOM, cpus=None, record=True):
        """Have vCPUs, all unless told, make calls; does not wait for them."""
        for cpu in range(self.cpus) if cpus is None else cpus:
            self.set(cpu, CALLS, calls)
            self.set(cpu, OPCODE, opcode)
            self.set(cpu, RECORD, record)
            self.set(cpu, START, 0)
            self.set(cpu, GO, self.get(cpu, DONE) + 1)

    def done(self, cpu):
        return self.get(cpu, DONE) == self.get(cpu, GO)

    def finish(self, seconds=HANG):
        """Wait until all calls have returned, with r5..r12 as they were."""
        until(lambda: all(map(self.done, range(self.cpus))), seconds)
        assert not any(self.get(cpu, DAMAGE) for cpu in range(self.cpus))

    def rtas(self, token, *args, cpu=0):
        """Have that vCPU make an RTAS call; its one result, 0 if it worked."""
        words = [token, len(args), 1, *args, 0, 0]
        for i in range(0, len(words) - 1, 2):
            self._poke(HOST_RTAS_ARGS + 4 * i, words[i] << 32 | words[i + 1])
        self.set(cpu, ARGUMENT, HOST_RTAS_ARGS)
        self.call(1, H_RTAS, [cpu], record=False)
        until(lambda: self.done(cpu))
        return self._peek32(HOST_RTAS_ARGS + 4 * (3 + len(args)))

    def start_cpu(self, cpu):
        """Have vCPU 0 start another one that has stopped itself."""
        work = self._peek32(RTAS_ARGS + 16)
        assert self.rtas(RTAS_START_CPU, cpu, work, cpu) == 0

    def calls_wait(self):
        """Whether each vCPU is in its call; gives it time to get there."""
        until(lambda: all(self.get(cpu, START) for cpu in range(self.cpus)))
        time.sleep(0.05)
        return not any(map(self.done, range(self.cpus)))

    def count(self):
        """How many calls returned."""
        return sum(self.get(cpu, COUNT) for cpu in range(self.cpus))

    def results(self, cpu=0):
        """Status and value of each call of that vCPU."""
        count = self.get(cpu, COUNT)
        assert count <= RING_LENGTH
        words = self._ring(cpu, 2 * count)
        return list(zip(words[::2], words[1::2]))

    def values(self, cpu=0):
        """What that vCPU got; not one of its calls failed."""
        results = self.results(cpu)
        assert {status for status, _ in results} <= {H_SUCCESS}
        return [value for _, value in results]

    def durations(self, cpu=0):
        """How many ticks each call took of a batch with record=TIME."""
        calls = self.get(cpu, CALLS)
        assert calls <= DURATIONS
        return self._ring(cpu, calls)

    def seconds(self, cpus=(0,)):
        """How long these vCPUs took for their last calls, all in all."""
        return (max(self.get(cpu, END) for cpu in cpus) -
                min(self.get(cpu, START) for cpu in cpus)) / TB_HZ

    def log(self):
        """What QEMU said so far."""
        return self.log_path.read_text()

    def reports(self):
        """The same, without who said it and how bad it is."""
        return [line.split(': ', 2)[2] for line in self.log().splitlines()
                if ': warning: ' in line or ': info: ' in line]

    def quit(self):
        """End QEMU, which must not wait for anything."""
        with within(HANG):
            self.vm.cmd('quit')
            self.vm.wait(timeout=HANG)
        assert self.vm.exitcode() == 0

    def save(self, path):
        """Migrate to a file all but the memory; the guest is stopped then."""
        self._leave_memory()
        self.vm.cmd('migrate', uri=f'file:{path}')
        until_saved(self.vm)

    def restore(self, path):
        """The other end: a machine with that memory, and -incoming defer."""
        self._leave_memory()
        self.vm.cmd('migrate-incoming', uri=f'file:{path}')
        until(lambda: self.migration() == 'completed' and
              self.vm.cmd('query-status')['status'] == 'running')

    def _leave_memory(self):
        """Have migration skip the memory, which takes most of the time."""
        self.vm.cmd('migrate-set-capabilities', capabilities=[
            {'capability': 'x-ignore-shared', 'state': True}])

    def migration(self):
        return migration(self.vm)

    def cpu_seconds(self):
        """The processor time that QEMU has used."""
        return cpu_seconds(self.vm.get_pid())
