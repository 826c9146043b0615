# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that know which of their bytes the guest got."""

import itertools
import termios
from collections import Counter

from testlib.bare_metal import source_bytes
from testlib.egd import EgdDaemon
from testlib.fifo import Fifo, ioctl_int


class Source:
    """
    What a source gave, and which of its bytes the guest got.

    may_lose: how many bytes the guest need not get
    seams: in how many words bytes may be missing
    last: where the last word of each vCPU ended
    """

    _first = itertools.count(0, 1 << 20)    # No word comes from two sources.

    def __init__(self, directory):
        directory.mkdir()
        self._word = next(self._first)
        self.given = bytearray()
        self._got = bytearray()     # 1 for each byte that the guest got
        self.last = Counter()
        self.may_lose = 0
        self.seams = 0

    def ahead(self, size):
        """The next bytes of the source."""
        at = len(self.given)
        data = source_bytes(self._word + at // 8,
                            self._word + (at + size) // 8 + 1)
        return data[at % 8:at % 8 + size]

    def take(self, cpu, word):
        """A vCPU got a word; returns whether the source gave it."""
        at = self.given.find(word)
        if at < 0:
            return False
        self._got.extend(bytes(len(self.given) - len(self._got)))
        assert not any(self._got[at:at + 8]), f'byte {at} came twice'
        assert at >= self.last[cpu], f'byte {at} came after {self.last[cpu]}'
        self._got[at:at + 8] = b'\1' * 8
        self.last[cpu] = at + 8
        return True

    def check_losses(self):
        lost = self._got.rfind(1) + 1 - self._got.count(1)
        assert lost <= self.may_lose, f'{lost} bytes were lost'


class FifoSource(Source, Fifo):
    def __init__(self, directory):
        Source.__init__(self, directory)
        Fifo.__init__(self, directory)
        self.inode = self.path.stat().st_ino
        self.options = {'qom-type': 'rng-random', 'filename': str(self.path)}

    def feed(self, size, data=None):
        self.open()
        if self.has_room():
            data = data or self.ahead(size)
            self.given += data
            self.write(data)

    def serve(self):
        pass


class EgdSource(Source, EgdDaemon):
    """A daemon that answers requests as far as it was fed.

    It runs in the thread of the test, so the same steps have the same effect.
    """

    inode = 0

    def __init__(self, directory):
        Source.__init__(self, directory)
        EgdDaemon.__init__(self, directory / 'egd')
        self.random = self.ahead
        self.credit = 0
        self.options = {'qom-type': 'rng-egd', 'chardev': 'egd'}
        self.chardev = {'type': 'socket', 'data': {
            'server': False, 'reconnect-ms': 10,
            'addr': {'type': 'unix', 'data': {'path': self.path}}}}

    def feed(self, size):
        self.credit += size

    def unread(self):
        return self.credit

    def open(self):
        if not self._listener:
            self.listen()

    def hang_up(self, after=0):
        for connection in self._owed:
            # QEMU may have the first bytes of a word, but not the next ones.
            self.may_lose += ioctl_int(connection, termios.TIOCOUTQ) + 8
            self.seams += 1
        super().hang_up(after)
        self.serve()
