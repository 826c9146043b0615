# SPDX-License-Identifier: GPL-2.0-or-later
"""A source that gives exactly the bytes that a check writes to it."""

import fcntl
import os
import struct
import termios
import threading
from contextlib import contextmanager


def ioctl_int(file, request):
    """The int that an ioctl(2) of a file returns."""
    return struct.unpack('i', fcntl.ioctl(file, request, bytes(4)))[0]


class Fifo:
    """A FIFO that a check writes to, and that QEMU reads."""

    def __init__(self, directory):
        self.path = directory / 'fifo'
        os.mkfifo(self.path)
        self._fd = None
        self.open()
        self.backend = f'rng-random,filename={self.path}'

    def open(self):
        """Be a writer, also again after close()."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR)

    def write(self, data):
        os.write(self._fd, data)

    def unread(self):
        """How many of the written bytes were not read yet."""
        return ioctl_int(self._fd, termios.FIONREAD)

    def has_room(self):
        """Whether a write of some pages ends: one to a full FIFO would not.

        A FIFO has 16 pages, and a write may leave half of one unused.
        """
        return self.unread() < 1 << 14

    @contextmanager
    def fed(self, chunks):
        """Write an iterator's chunks in a thread, while the block runs."""
        over = threading.Event()

        def feed():
            for data in chunks:
                while not self.has_room() and not over.wait(0.002):
                    pass
                if over.is_set():
                    return
                self.write(data)

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            yield
        finally:
            over.set()
            feeder.join()

    def close(self):
        """The FIFO has no writer any more, so it ends."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
