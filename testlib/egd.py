# SPDX-License-Identifier: GPL-2.0-or-later
"""An entropy gathering daemon that misbehaves on request."""

import contextlib
import math
import os
import socket
import termios
import threading
import time
from pathlib import Path

from testlib.fifo import ioctl_int
from testlib.limits import until


def until_connected(guest):
    """Wait until QEMU's chardev is connected."""
    until(lambda: not any(chardev['filename'].startswith('disconnected:')
                          for chardev in guest.qemu.cmd('query-chardev')))


class EgdDaemon:
    """
    A daemon that answers the request 0x02 N with N bytes, on a unix socket.

    single_bytes: send each byte only when the previous byte has been read
    silent: do not answer; requests that come meanwhile are never answered
    left_out: how many bytes of the next answer to leave out
    random: a function that makes a number of random bytes
    given: the random bytes sent so far, in order
    asked: how many random bytes were requested so far
    requests, connections: how many there were so far
    """

    def __init__(self, path):
        self.path = str(path)
        self.single_bytes = False
        self.silent = False
        self.left_out = 0
        self.random = os.urandom
        self.given = bytearray()
        self.asked = 0
        self.requests = 0
        self.connections = 0
        self._left = math.inf
        self._listener = None
        self._acceptor = None
        self._open = set()

    def backend(self, option='reconnect-ms=50'):
        """The backend that asks this daemon, and the backend's -chardev."""
        return ['rng-egd,chardev=egd', '-chardev',
                f'socket,id=egd,path={self.path},{option}']

    def _listen(self):
        Path(self.path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        return listener

    def start(self):
        """Listen; possible again after stop()."""
        self._listener = self._listen()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def stop(self):
        """Die: close all connections, and refuse new ones."""
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            self._listener.close()
            self._listener = None
            self.hang_up()

    close = stop

    def hang_up(self, after=0):
        """
        Close all connections, once; later connections are served as usual.

        after: how many more random bytes to give before hanging up
        """
        self._left = after or math.inf
        if not after:
            for connection in list(self._open):
                self._open.discard(connection)
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        with contextlib.suppress(OSError):  # stop() ends accept().
            while True:
                connection, _ = self._listener.accept()
                self._open.add(connection)
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,),
                                 daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile('rb') as received:
            # An error means that QEMU or this daemon has hung up.
            with contextlib.suppress(OSError):
                while request := received.read(2):
                    assert request[0] == 2
                    self._answer(connection, request[1])
            self._open.discard(connection)

    def _answer(self, connection, size):
        self.asked += size
        self.requests += 1
        if self.silent:
            return
        size, self.left_out = max(0, size - self.left_out), 0
        if not self.single_bytes:
            self._give(connection, size)
            return
        for _ in range(size):
            self._give(connection, 1)
            while connection in self._open and \
                    ioctl_int(connection, termios.TIOCOUTQ):
                time.sleep(0.0001)

    def _give(self, connection, size):
        size = min(size, self._left)
        self._left -= size
        data = self.random(size)
        self.given += data
        connection.sendall(data)
        if not self._left:
            self.hang_up()
            raise ConnectionAbortedError
