# SPDX-License-Identifier: GPL-2.0-or-later
"""An entropy gathering daemon that misbehaves on request."""

import base64
import os
import socket
import termios
import threading
import time

from testlib.fifo import ioctl_int
from testlib.limits import until


class EgdDaemon:
    """
    A daemon that gives random bytes on a unix socket.

    The answer to the request 0x02 N is N bytes. The answer to 0x01 N is the
    byte N, and then N bytes. After any other request, the daemon hangs up.

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
        self._left = None
        self._listener = None
        self._acceptor = None
        self._open = set()
        self._lock = threading.Lock()

    def backend(self, option='reconnect-ms=50'):
        """The backend that asks this daemon, and the backend's -chardev."""
        return ['rng-egd,chardev=egd', '-chardev',
                f'socket,id=egd,path={self.path},{option}']

    def _listen(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        return listener

    def _unlisten(self):
        os.unlink(self.path)

    def start(self):
        """Listen; possible again after stop()."""
        self._listener = self._listen()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def stop(self):
        """Die: close all connections, and remove the socket."""
        if self._listener:
            self._unlisten()
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
        self._left = after
        if not after:
            self._close_all()

    def _close_all(self):
        self._left = None
        for connection in list(self._open):
            self._open.discard(connection)
            connection.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,),
                             daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile('rb') as received:
            try:
                while self._answer(connection, received.read(2)):
                    pass
            except OSError:
                pass  # QEMU or this daemon has hung up.
            self._open.discard(connection)

    def _answer(self, connection, request):
        if len(request) < 2 or request[0] not in (1, 2):
            return False
        size = request[1]
        self.asked += size
        self.requests += 1
        if self.silent:
            return True
        size, self.left_out = max(0, size - self.left_out), 0
        if request[0] == 1:
            connection.sendall(bytes([size]))
        if not self.single_bytes:
            return self._give(connection, size)
        for _ in range(size):
            if not self._give(connection, 1):
                return False
            while connection in self._open and \
                    ioctl_int(connection, termios.TIOCOUTQ):
                time.sleep(0.0001)
        return True

    def _give(self, connection, size):
        """Send random bytes. Return False if the daemon then hangs up."""
        with self._lock:
            if self._left is not None:
                size = min(size, self._left)
                self._left -= size
            last = self._left == 0
            data = self.random(size)
            self.given += data
        connection.sendall(data)
        if last:
            self._close_all()
        return not last


class _WebSocket:
    """A connection to a WebSocket server that has a socket's interface."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            'GET / HTTP/1.1\r\nHost: egd\r\nUpgrade: websocket\r\n'
            f'Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n'
            'Sec-WebSocket-Protocol: binary\r\n'
            'Sec-WebSocket-Version: 13\r\n\r\n'.encode())
        self._file = self._socket.makefile('rb')
        assert b' 101 ' in self._file.readline()
        while self._file.readline().strip():
            pass
        self._ahead = b''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def makefile(self, _):
        return self

    def read(self, size):
        while len(self._ahead) < size:
            head = self._file.read(2)
            if len(head) < 2 or head[0] & 15 == 8:
                return b''
            # A server does not mask its frames. QEMU's requests are short, so
            # that the length is in the second byte.
            length = head[1]
            assert length < 126
            self._ahead += self._file.read(length)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def sendall(self, data):
        """Send one frame of at most 255 bytes; clients mask their frames."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        length = bytes([0x80 | len(data)]) if len(data) < 126 else \
            b'\xfe' + len(data).to_bytes(2, 'big')
        self._socket.sendall(b'\x82' + length + mask + masked)

    def shutdown(self, how):
        self._socket.shutdown(how)


class WebSocketDaemon(EgdDaemon):
    """A daemon that connects to QEMU, which listens with websocket=on."""

    def start(self):
        connection = _WebSocket(self.path)
        self._open.add(connection)
        self.connections += 1
        threading.Thread(target=self._serve, args=(connection,),
                         daemon=True).start()

    def stop(self):
        self.hang_up()


def until_connected(guest):
    """Wait until QEMU's chardev is connected."""
    until(lambda: not any(chardev['filename'].startswith('disconnected:')
                          for chardev in guest.qemu.cmd('query-chardev')))
