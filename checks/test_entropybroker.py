# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's entropybroker as the daemon of rng-egd, its rate and restarts.

The broker gets bytes from a source, and its EGD server hands them out. Near
the quota of a user, an answer is shorter than the request; at the quota, after
some 110 words, the server pauses for 15 s, or for a minute with the broker's
default.
"""

import contextlib
import socket
import subprocess
from pathlib import Path

import pytest

from testlib.limits import HANG, until

RATES = {'guest': 2048, 'source': 8192}     # bits a second
PASSWORD = 'my_password1234123492348'
PACKAGED = Path('/etc/entropybroker/entropy_broker.conf')

# Added to the package's own configuration
CONFIG = '''
listen_adapter = ::FFFF:127.0.0.1
listen_port = {port}
webserver_port = -1
reset_counters_interval = 1
allow_prng = 1
'''

# The broker keeps pools in /var/cache, where other brokers would find them.
OWN_CACHE = ['unshare', '-m', 'sh', '-c',
             'mount -t tmpfs tmpfs /var/cache && exec "$@"', 'sh']


class Broker:
    """The broker, a source that fills it, and its EGD server."""

    def __init__(self, directory):
        self.directory = directory
        self.socket = directory / 'egd'
        with socket.create_server(('127.0.0.1', 0)) as free:
            self.port = free.getsockname()[1]
        self.running = []
        self._write('conf', PACKAGED.read_text() +
                    CONFIG.format(port=self.port))
        self._write('users.txt', ''.join(f'{user}|{PASSWORD}|{rate}\n'
                                         for user, rate in RATES.items()))
        for user in RATES:
            self._write(user, f'{user}\n{PASSWORD}\n')

    def _write(self, name, text):
        file = self.directory / name
        file.touch(0o600)
        file.write_text(text)

    def _run(self, program, *args):
        with open(self.directory / f'{program}.log', 'ab') as log:
            self.running.append(subprocess.Popen(
                [*OWN_CACHE, program, '-n', '-P', f'{program}.pid', *args],
                cwd=self.directory, stdout=log, stderr=log))

    def start(self):
        """Start all programs, or start them again."""
        self.close()
        broker = ['-I', f'127.0.0.1:{self.port}']
        self.socket.unlink(missing_ok=True)
        self._run('entropy_broker', '-c', 'conf')
        self._run('eb_server_stream', *broker, '-X', 'source',
                  '-d', '/dev/urandom')
        self._run('eb_client_egd', *broker, '-X', 'guest', '-d', self.socket)
        until(self.socket.exists)

    def close(self):
        while self.running:
            program = self.running.pop()
            program.kill()
            program.wait(HANG)


@pytest.fixture
def broker(tmp_path):
    with contextlib.closing(Broker(tmp_path)) as made:
        made.start()
        yield made


def test_rate_and_restarts(broker, guest):
    """The guest gets most of its rate, on and on, also after a restart."""
    vm = guest('rng-egd,chardev=egd', '-chardev',
               f'socket,id=egd,path={broker.socket},reconnect-ms=50',
               timeout=0)
    vm.call(2 ** 20)

    def has(words):
        # Version 2.9 sometimes damages its heap, which malloc() notices.
        if any(program.poll() for program in broker.running):
            broker.start()
        return vm.count() >= words

    until(lambda: has(150))
    broker.start()
    enough = vm.count() + 40
    until(lambda: has(enough))
    words = vm.values()
    assert len(set(words)) == len(words)
