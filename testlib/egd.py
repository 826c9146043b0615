# SPDX-License-Identifier: GPL-2.0-or-later
"""An entropy gathering daemon that misbehaves on request."""

import contextlib
import math
import os
import select
import socket
import termios
import threading
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
    unasked: send all the time, without a request
    left_out: how many bytes of the next answer to leave out
    credit: how many more random bytes there are
    random: a function that makes a number of random bytes
    given: the random bytes sent so far, in order
    asked: how many random bytes were requested so far
    requests, connections: how many there were so far
    """

    def __init__(self, path):
        self.path = str(path)
        self.single_bytes = False
        self.silent = False
        self.unasked = False
        self.left_out = 0
        self.credit = math.inf
        self.random = os.urandom
        self.given = bytearray()
        self.asked = 0
        self.requests = 0
        self.connections = 0
        self._after = 0
        self._end = math.inf    # how many bytes to give before hanging up
        self._listener = None
        self._thread = None
        self._owed = {}     # bytes, for each connection

    def backend(self, option='reconnect-ms=50'):
        """The backend that asks this daemon, and the backend's -chardev."""
        return ['rng-egd,chardev=egd', '-chardev',
                f'socket,id=egd,path={self.path},{option}']

    def listen(self):
        """Accept connections, whose requests wait for serve()."""
        Path(self.path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._listener.setblocking(False)

    def start(self):
        """Listen, and serve in a thread; possible again after stop()."""
        self.listen()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        """Die: close all connections, and refuse new ones."""
        listener, self._listener = self._listener, None
        self.hang_up()
        if self._thread:
            self._thread.join()
        if listener:
            listener.close()
        for connection in self._owed:
            connection.close()
        self._owed.clear()

    close = stop

    def hang_up(self, after=0):
        """
        Close all connections, once; later connections are served as usual.

        after: how many more random bytes to give before hanging up
        """
        self._after = after
        if after:
            return
        self._end = math.inf
        for connection in list(self._owed):
            with contextlib.suppress(OSError):  # QEMU hung up before.
                connection.shutdown(socket.SHUT_RDWR)

    def _run(self):
        while listener := self._listener:
            self.serve()
            busy = self.unasked or any(self._owed.values())
            select.select([listener, *self._owed], [], [],
                          0.0001 if busy else 0.01)

    def serve(self):
        """Answer all requests so far, as far as there are bytes."""
        with contextlib.suppress(BlockingIOError):
            while listener := self._listener:
                self._owed[listener.accept()[0]] = 0
                self.connections += 1
        for connection in list(self._owed):
            try:
                if not self.unasked:
                    self._receive(connection)
                self._answer(connection)
            except OSError:     # QEMU or this daemon has hung up.
                del self._owed[connection]
                connection.close()

    def _receive(self, connection):
        with contextlib.suppress(BlockingIOError):
            while request := connection.recv(2, socket.MSG_DONTWAIT):
                assert request[0] == 2
                self.requests += 1
                self.asked += request[1]
                if not self.silent:
                    self._owed[connection] += max(0,
                                                  request[1] - self.left_out)
                    self.left_out = 0
            raise ConnectionAbortedError

    def _answer(self, connection):
        """QEMU asks for fewer bytes than the socket can hold."""
        if self._after:
            self._end, self._after = len(self.given) + self._after, 0
        size = 4096 if self.unasked else min(
            self._owed[connection], self.credit, self._end - len(self.given))
        if self.single_bytes:
            size = min(size, not ioctl_int(connection, termios.TIOCOUTQ))
        if not size:
            return
        data = self.random(size)
        self._owed[connection] -= size
        self.credit -= size
        self.given += data
        connection.sendall(data)
        if len(self.given) == self._end:
            self.hang_up()
