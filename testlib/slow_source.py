# SPDX-License-Identifier: GPL-2.0-or-later
"""A source whose reads are slow, as those of a hardware generator."""

import mmap
import time
import timeit

from testlib.bare_metal import source_bytes
from testlib.programs import compile_c
from testlib.sources import random_backend

# As slow as a TPM's generator: bytes of a chunk, and milliseconds for a chunk
SLOW = {'10ms-64': (64, 10), '15ms-48': (48, 15), '7ms-20': (20, 7),
        '500ms-32': (32, 500)}

FOR_EVER = 2 ** 31 - 1

# The indices of the numbers of struct Control in failing-read.c
(INODE, ERROR, NO_THREADS, CHUNK, CHUNK_US, CHUNKS_MOST, SHORT_READS, CHUNKS,
 READS, OTHERS) = range(10)


def build(directory):
    """Compile the library that is preloaded into QEMU."""
    return compile_c('testlib/failing-read.c', directory, '-shared', '-fPIC')


def preload(library, source, path):
    """
    Returns the numbers that the library shares, and the command to preload it.

    library: the path that build() returned
    path: the file that gets the numbers, on the filesystem of the source
    """
    path.write_bytes(bytes(mmap.PAGESIZE))
    with open(path, 'rb+') as file:
        shared = memoryview(mmap.mmap(file.fileno(), 0)).cast('q')
    shared[INODE] = source.stat().st_ino
    return shared, ['env', f'LD_PRELOAD={library}', f'FAILING_CONTROL={path}']


class SlowSource:
    """
    A file of known words, which come in chunks of some milliseconds.

    library: the path that build() returned
    chunk: its size; 0: any number of bytes comes at once
    most: how many chunks there are; a read beyond the last chunk never returns
    short: a read gives what is left of a chunk, and does not wait for more
    control: the numbers that the library shares
    """

    def __init__(self, directory, library, chunk=0, ms=0, most=FOR_EVER,
                 short=False):
        self.path = directory / 'slow-source'
        self.path.write_bytes(source_bytes(0, 1 << 17))
        self.backend = random_backend(self.path)
        self.control, self.wrapper = preload(
            library, self.path, directory / 'slow-control')
        self.control[CHUNK] = chunk
        self.control[CHUNK_US] = ms * 1000
        self.control[CHUNKS_MOST] = most
        self.control[SHORT_READS] = short

    @property
    def is_read(self):
        """Whether a read is in progress."""
        return self.control[READS] > 0

    @property
    def hangs(self):
        """Whether a read waits for a chunk that does not come.

        A read that gets the last chunk now hangs for some microseconds, too.
        """
        return self.is_read and \
            self.control[CHUNKS] >= self.control[CHUNKS_MOST]

    def share_read(self):
        """The share of about a second in which a read is in progress."""
        reads = 0
        for _ in range(500):
            time.sleep(0.002)
            reads += self.is_read
        return reads / 500

    def allow(self, chunks):
        """Allow at most so many more chunks."""
        self.control[CHUNKS_MOST] = self.control[CHUNKS] + chunks


def latencies(vm, count):
    """The durations of some answers of the monitor, in seconds."""
    return timeit.repeat(lambda: vm.cmd('query-status'),
                         lambda: time.sleep(0.013), number=1, repeat=count)
