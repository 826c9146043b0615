# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that takes its time, like a hardware generator: slow to read."""

import mmap
import os
import re
import subprocess
import time
from pathlib import Path

from testlib.programs import compile_c

# Like a TPM's generator: bytes of a chunk, and the milliseconds it takes
SLOW = {'10ms-64': (64, 10), '20ms-32': (32, 20), '500ms-32': (32, 500)}

SIZE = 1 << 20
FOR_EVER = 2 ** 31 - 1

# Of struct Control in failing-read.c
(ERROR, CALLS, CHUNK, CHUNK_US, CHUNKS_MOST, CHUNKS, BYTES, ENDED,
 READERS) = range(9)


def build(directory):
    """Compile what has to be preloaded."""
    return compile_c('testlib/failing-read.c', directory, '-shared', '-fPIC',
                     '-ldl')


def preload(library, source, path, control):
    """
    For one program: the ints that it shares, and what to start it with.

    library: what build() made
    path: where these ints are
    control: those that they begin with; the others are 0
    """
    path.write_bytes(bytes(mmap.PAGESIZE))
    with open(path, 'rb+') as file:
        shared = memoryview(mmap.mmap(file.fileno(), 0)).cast('i')
    for i, value in enumerate(control):
        shared[i] = value
    return shared, ['env', f'LD_PRELOAD={library}', f'FAILING_FILE={source}',
                    f'FAILING_CONTROL={path}']


class SlowSource:
    """
    Random bytes, of which each started chunk takes some milliseconds.

    library: what build() made
    most: how many chunks there are; a read for which there is none never
    returns
    """

    def __init__(self, directory, library, chunk, ms, most=FOR_EVER):
        self.path = Path(directory) / 'slow-source'
        self.path.write_bytes(os.urandom(SIZE))
        self.backend = f'rng-random,filename={self.path}'
        self._library = library
        self._kept_out = set()
        self._new_control = [0, 0, chunk, round(ms * 1000), most]
        self._control, self.wrapper = self._prepare('slow-control')

    def _prepare(self, name):
        return preload(self._library, self.path, self.path.with_name(name),
                       self._new_control)

    @property
    def chunks(self):
        """How many it has made for QEMU."""
        return self._control[CHUNKS]

    @property
    def given(self):
        """How many bytes QEMU got."""
        return self._control[BYTES]

    @property
    def is_read(self):
        """Whether a read has not returned."""
        return self._control[CALLS] != self._control[ENDED]

    def allow(self, chunks):
        """From now on it makes at most as many."""
        self._control[CHUNKS_MOST] = self._control[CHUNKS] + chunks

    def heal(self):
        """It makes as many as are wanted."""
        self._control[CHUNKS_MOST] = FOR_EVER

    def slow_down(self, ms):
        """From now on it takes as many milliseconds for a chunk."""
        self._control[CHUNK_US] = ms * 1000

    def readers(self):
        """The ids of the threads of QEMU that have read."""
        return {tid for tid in self._control[READERS:READERS + 16] if tid}

    def keep_out(self, vm):
        """
        No thread of QEMU's may read that takes its big lock.

        These are those of the vCPUs and the main one, which has the process's
        id. To be called before a read may take that lock: then, QEMU does not
        answer.
        """
        self._kept_out = {vm.get_pid(), *(
            cpu['thread-id'] for cpu in vm.cmd('query-cpus-fast'))}

    def check_readers(self):
        """
        None of these threads has read, in which a read stops the machine.

        This holds however busy the host is.
        """
        assert self.readers() and self._kept_out
        assert not self.readers() & self._kept_out, \
            'QEMU reads the source in a thread that holds its big lock'

    def plain_rate(self, size):
        """Bytes per second of a program that does nothing but read."""
        _, wrapper = self._prepare('plain-control')
        done = subprocess.run(
            [*wrapper, 'LC_ALL=C', 'dd', f'if={self.path}', 'of=/dev/null',
             'bs=512', f'count={-(-size // 512)}'],
            check=True, capture_output=True, text=True)
        read, seconds = re.search(r'^(\d+) bytes.* copied, (\S+) s',
                                  done.stderr, re.MULTILINE).groups()
        return int(read) / float(seconds)


def latencies(vm, count, pause=0.013):
    """How long a monitor's answer took, in seconds, of each of some, sorted."""
    times = []
    for _ in range(count):
        start = time.monotonic()
        vm.cmd('query-status')
        times.append(time.monotonic() - start)
        time.sleep(pause)
    return sorted(times)
