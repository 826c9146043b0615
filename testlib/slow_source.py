# SPDX-License-Identifier: GPL-2.0-or-later
"""A source whose reads are slow, as those of a hardware generator."""

import mmap
import os
import time
from pathlib import Path

from testlib.programs import compile_c

# As slow as a TPM's generator: bytes of a chunk, and milliseconds for a chunk
SLOW = {'10ms-64': (64, 10), '15ms-48': (48, 15), '7ms-20': (20, 7),
        '500ms-32': (32, 500)}

SIZE = 1 << 20
FOR_EVER = 2 ** 31 - 1

# The indices of the ints of struct Control in failing-read.c
(ERROR, CALLS, CHUNK, CHUNK_US, CHUNKS_MOST, CHUNKS, BYTES, ENDED, OTHERS,
 SHORT_READS, NO_THREADS, INODE) = range(12)


def build(directory):
    """Compile the library that is preloaded into QEMU."""
    return compile_c('testlib/failing-read.c', directory, '-shared', '-fPIC',
                     '-ldl')


def preload(library, source, path):
    """
    Returns the ints that the library shares, and the command that preloads it.

    library: the path that build() returned
    path: the file with the shared ints, which are 0 at first
    """
    path.write_bytes(bytes(mmap.PAGESIZE))
    with open(path, 'rb+') as file:
        shared = memoryview(mmap.mmap(file.fileno(), 0)).cast('i')
    return shared, ['env', f'LD_PRELOAD={library}', f'FAILING_FILE={source}',
                    f'FAILING_CONTROL={path}']


class SlowSource:
    """
    A file of random bytes, which come in chunks of some milliseconds.

    library: the path that build() returned
    chunk: its size; 0: any number of bytes comes at once
    most: how many chunks there are; a read beyond the last chunk never returns
    short: a read gives what is left of a chunk, and does not wait for more
    """

    def __init__(self, directory, library, chunk, ms, most=FOR_EVER,
                 short=False):
        self.path = Path(directory) / 'slow-source'
        self.path.write_bytes(os.urandom(SIZE))
        self.backend = f'rng-random,filename={self.path}'
        self._control, self.wrapper = preload(
            library, self.path, self.path.with_name('slow-control'))
        self._control[CHUNKS_MOST] = most
        self._control[SHORT_READS] = short
        self.slow_down(chunk, ms)

    @property
    def given(self):
        """How many bytes QEMU has read."""
        return self._control[BYTES]

    @property
    def is_read(self):
        """Whether a read is in progress."""
        return self._control[CALLS] != self._control[ENDED]

    @property
    def hangs(self):
        """Whether a read waits for a chunk that does not come.

        A read that gets the last chunk now hangs for some microseconds, too.
        """
        return self.is_read and \
            self._control[CHUNKS] >= self._control[CHUNKS_MOST]

    @property
    def other_reads(self):
        """
        How many reads were not made by QEMU's reader.

        A thread that has the BQL stops the machine while it reads. This count
        does not depend on time, and thus not on the load of the host.
        """
        return self._control[OTHERS]

    def share_read(self):
        """The share of about a second in which a read is in progress."""
        samples = 500
        reads = 0
        for _ in range(samples):
            time.sleep(0.002)
            reads += self.is_read
        return reads / samples

    def allow(self, chunks):
        """Allow at most so many more chunks."""
        self._control[CHUNKS_MOST] = self._control[CHUNKS] + chunks

    def slow_down(self, chunk, ms):
        """From now on, each read waits for chunks."""
        self._control[CHUNK_US] = ms * 1000
        self._control[CHUNK] = chunk


def latencies(vm, count):
    """The durations of some answers of the monitor, in seconds."""
    times = []
    for _ in range(count):
        start = time.monotonic()
        vm.cmd('query-status')
        times.append(time.monotonic() - start)
        time.sleep(0.013)
    return times
