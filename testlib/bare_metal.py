# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's side of the guest guests/bare-metal/hcalls.S.

The host shares the guest's memory, in the layout of hcalls.h.
"""

import ctypes
import itertools
import mmap
import struct
import subprocess
import time
from pathlib import Path

from testlib import TOP
from testlib.hcalls import (ARGUMENT, BLOCKS, BLOCK_SIZE, CALLS, COUNT, CPUS,
                            DAMAGE, DONE, DURATIONS, END, GO, H_RANDOM, H_RTAS,
                            H_SUCCESS, INTERRUPTS, INTERVAL, OPCODE, RAM_SIZE,
                            RECORD, RING_LENGTH, RTAS_ARGS, START, TB_HZ)
from testlib.limits import HANG, until
from testlib.machine import (OPTIONS, migration, spapr_rng, until_event,
                             until_saved)


def build(directory):
    """Build the image that QEMU loads; return its path."""
    image = Path(directory) / 'hcalls.bin'
    subprocess.run(['make', '-s', '-C', TOP / 'guests/bare-metal',
                    f'O={image.parent}', image], check=True)
    return image


def word(i):
    """Word i of a source: 64 bits. The words of a source are all different.

    They are those of splitmix64, which pass the health tests.
    """
    z = (i + 1) * 0x9e3779b97f4a7c15 % 2 ** 64
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9 % 2 ** 64
    z = (z ^ z >> 27) * 0x94d049bb133111eb % 2 ** 64
    return z ^ z >> 31


def source_bytes(first, end):
    return struct.pack(f'>{end - first}Q', *map(word, range(first, end)))


class Memory(ctypes.BigEndianStructure):
    """The guest's memory: each word is accessed whole, never in parts."""

    _fields_ = [('words', ctypes.c_uint64 * (RAM_SIZE // 8))]


class Guest:
    """
    A machine that runs the program, with the device and its backend.

    backend: as for -object, without its id; None: no device and no backend
    options: the options of machine(), and the device's properties
    """

    _number = itertools.count()

    def __init__(self, make, image, directory, backend, *args, cpus=1,
                 interrupts=False, ram=None, **options):
        self.cpus = cpus
        self.has_device = backend is not None
        name = f'qemu{next(self._number)}'
        self.log_path = directory / f'{name}.log'
        self.ram = ram or directory / f'{name}.ram'
        with open(self.ram, 'ab+') as file:
            file.truncate(RAM_SIZE)
            memory = mmap.mmap(file.fileno(), RAM_SIZE)
        self._memory = Memory.from_buffer(memory)
        if not ram:
            self._set_up(interrupts)
        of_machine = {option: options.pop(option)
                      for option in OPTIONS if option in options}
        self.qemu = make(
            *self.memory_args(self.ram), '-bios', str(image),
            '-smp', str(cpus),
            *(spapr_rng(backend, **options) if backend else []), *args,
            name=name, **of_machine)
        self.qemu.launch()

    @staticmethod
    def memory_args(path):
        """The arguments that make QEMU share the guest's memory."""
        return ['-m', f'{RAM_SIZE >> 20}M', '-machine', 'memory-backend=ram',
                '-object', 'memory-backend-file,id=ram,share=on,'
                f'size={RAM_SIZE},mem-path={path}']

    def _set_up(self, interrupts):
        """Write the parameters that the program reads at its start."""
        self._poke(CPUS, self.cpus)
        for cpu in range(self.cpus):
            self.set(cpu, INTERRUPTS, interrupts)
            self.set(cpu, INTERVAL, TB_HZ // 1000)

    def _words(self, address, count):
        first = address // 8
        return self._memory.words[first:first + count]

    def _poke(self, address, value):
        self._memory.words[address // 8] = value

    def _ring(self, cpu, length):
        return self._words((cpu + 1) << 20, length)

    def get(self, cpu, field):
        return self._words(BLOCKS + cpu * BLOCK_SIZE + field, 1)[0]

    def set(self, cpu, field, value):
        self._poke(BLOCKS + cpu * BLOCK_SIZE + field, value)

    def call(self, calls=1, opcode=H_RANDOM, cpus=None, record=True):
        """Have vCPUs make calls, without waiting for them; None: all vCPUs."""
        for cpu in range(self.cpus) if cpus is None else cpus:
            self.set(cpu, CALLS, calls)
            self.set(cpu, OPCODE, opcode)
            self.set(cpu, RECORD, record)
            self.set(cpu, START, 0)
            self.set(cpu, GO, self.get(cpu, DONE) + 1)

    def done(self, cpu):
        return self.get(cpu, DONE) == self.get(cpu, GO)

    def finish(self, seconds=HANG):
        """Wait until all calls have returned; none may change r5..r12."""
        until(lambda: all(map(self.done, range(self.cpus))), seconds)
        assert not any(self.get(cpu, DAMAGE) for cpu in range(self.cpus))

    def start_cpu(self, cpu):
        """Have vCPU 0 start another vCPU, which has stopped itself.

        The arguments are those of the last start at the machine's start: the
        32-bit words 3 to 5 are the vCPU, its entry point, and its r3.
        """
        entry = self._words(RTAS_ARGS + 16, 1)[0] >> 32
        self._poke(RTAS_ARGS + 8, 1 << 32 | cpu)
        self._poke(RTAS_ARGS + 16, entry << 32 | cpu)
        self.set(0, ARGUMENT, RTAS_ARGS)
        self.call(1, H_RTAS, [0], record=False)
        until(lambda: self.done(0))
        assert self._words(RTAS_ARGS + 24, 1)[0] >> 32 == 0

    def calls_wait(self, cpus=None):
        """Whether vCPUs wait in their calls, some time after these began."""
        cpus = cpus or range(self.cpus)
        until(lambda: all(self.get(cpu, START) for cpu in cpus))
        time.sleep(0.05)
        return not any(map(self.done, cpus))

    def begin(self, cpus=None):
        """Have vCPUs make a call each, which must wait; forget results."""
        for cpu in cpus or range(self.cpus):
            self.set(cpu, COUNT, 0)
        self.call(cpus=cpus)
        assert self.calls_wait(cpus)

    def count(self):
        """How many calls have returned and are recorded."""
        return sum(self.get(cpu, COUNT) for cpu in range(self.cpus))

    def call_until_success(self):
        """Have all vCPUs make one call each, until vCPU 0's call succeeds."""
        until(lambda: self.call() or self.finish() or
              self.results()[-1][0] == H_SUCCESS)

    def gets_a_word_each(self):
        """Each vCPU gets one word; together, the first words of a source."""
        self.finish()
        assert sorted(self.values(cpu) for cpu in range(self.cpus)) == \
            sorted([word(cpu)] for cpu in range(self.cpus))

    def results(self, cpu=0):
        """Status and value of each recorded call of a vCPU."""
        count = self.get(cpu, COUNT)
        assert count <= RING_LENGTH
        words = self._ring(cpu, 2 * count)
        return list(zip(words[::2], words[1::2]))

    def values(self, cpu=0):
        """The values that a vCPU got; none of its calls may have failed."""
        results = self.results(cpu)
        assert {status for status, _ in results} <= {H_SUCCESS}
        return [value for _, value in results]

    def durations(self, cpu=0):
        """The duration in ticks of each call of a batch with record=TIME."""
        calls = self.get(cpu, CALLS)
        assert calls <= DURATIONS
        return self._ring(cpu, calls)

    def seconds(self, cpus=(0,)):
        """The seconds from the first start to the last end of a batch."""
        return (max(self.get(cpu, END) for cpu in cpus) -
                min(self.get(cpu, START) for cpu in cpus)) / TB_HZ

    def log(self):
        """QEMU's messages so far."""
        return self.log_path.read_text()

    def reports(self):
        """The warnings and infos of the log, without prefix and severity."""
        return [line.split(': ', 2)[2] for line in self.log().splitlines()
                if ': warning: ' in line or ': info: ' in line]

    def reset(self):
        """Reset the machine; each batch that is not done begins again."""
        for cpu in range(self.cpus):
            self.set(cpu, START, 0)
        self.qemu.cmd('system_reset')
        until_event(self.qemu, 'RESET')

    def quit(self, command='quit'):
        """Give QEMU a command that ends it; it must end without an error."""
        self.qemu.cmd(command)
        self.qemu.wait(timeout=HANG)
        assert self.qemu.exitcode() == 0

    def save(self, path):
        """Migrate to a file all but the memory, which stops the guest."""
        self._migrate('migrate', path)
        until_saved(self.qemu)

    def restore(self, path):
        """Continue the saved guest in this machine.

        The machine has the same memory, and was started with -incoming defer.
        """
        self._migrate('migrate-incoming', path)
        until(lambda: migration(self.qemu) == 'completed' and
              self.qemu.cmd('query-status')['status'] == 'running')

    def _migrate(self, command, path):
        """Begin a migration without the memory, which takes longest."""
        self.qemu.cmd('migrate-set-capabilities', capabilities=[
            {'capability': 'x-ignore-shared', 'state': True}])
        self.qemu.cmd(command, uri=f'file:{path}')
