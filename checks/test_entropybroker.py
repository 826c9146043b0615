# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's entropybroker as the daemon of rng-egd, its rate and restarts.

The broker gets bytes from a source, and its EGD server hands them out. Near the
quota of a user, an answer is shorter than the request; at the quota, after some
110 words, the server pauses for 15 s, or for a minute with the broker's default.
"""

import contextlib
import socket
import subprocess

import pytest

from testlib.limits import HANG, until

RATE = 2048     # bits a second
PASSWORD = 'my_password1234123492348'

CONFIG = '''
listen_adapter = ::FFFF:127.0.0.1
listen_port = {port}
webserver_port = -1
users = {directory}/users
ignore_rngtest_fips140 = 1
ignore_rngtest_scc = 1
stirrer_type = aes
hash_type = sha512
stream_cipher = 3des
mac_hasher = md5
hash_hasher = sha512
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
        self._running = {}
        self._write('conf', CONFIG.format(**vars(self)))
        self._write('users', ''.join(
            f'{user}|{PASSWORD}|{rate}\n'
            for user, rate in (('guest', RATE), ('source', 4 * RATE))))
        for user in 'guest', 'source':
            self._write(user, f'{user}\n{PASSWORD}\n')

    def _write(self, name, text):
        file = self.directory / name
        file.touch(0o600)
        file.write_text(text)

    def _run(self, program, *args):
        with open(self.directory / f'{program}.log', 'ab') as log:
            self._running[program] = subprocess.Popen(
                [*OWN_CACHE, program, '-n', '-P', f'{program}.pid', *args],
                cwd=self.directory, stdout=log, stderr=log)

    def _client(self, program, user, *args):
        self._run(program, '-I', f'127.0.0.1:{self.port}', '-X', user, *args)

    def start(self):
        self._run('entropy_broker', '-c', 'conf')
        self._client('eb_server_stream', 'source', '-d', '/dev/urandom')
        self.start_egd()

    def start_egd(self):
        self.socket.unlink(missing_ok=True)
        self._client('eb_client_egd', 'guest', '-d', self.socket)
        until(self.socket.exists)

    def stop(self, *programs):
        for program in programs or list(self._running):
            running = self._running.pop(program)
            running.kill()
            running.wait(HANG)

    def gives(self, condition):
        """Wait for a condition; start the broker again if it has crashed.

        Version 2.9 sometimes damages its heap ("malloc(): unaligned tcache
        chunk detected").
        """
        def is_true():
            if any(program.poll() for program in self._running.values()):
                self.stop()
                self.start()
            return condition()

        until(is_true)


@pytest.fixture
def broker(tmp_path):
    with contextlib.ExitStack() as stack:
        made = Broker(tmp_path)
        stack.callback(made.stop)
        made.start()
        yield made


def test_rate_and_restarts(broker, guest):
    """The guest gets most of its rate, on and on, also after restarts."""
    vm = guest('rng-egd,chardev=egd', '-chardev',
               f'socket,id=egd,path={broker.socket},reconnect-ms=50',
               timeout=0)
    vm.call(2 ** 20)

    def gets(words):
        before = vm.count()
        broker.gives(lambda: vm.count() >= before + words)

    gets(150)
    broker.stop()
    broker.start()
    gets(40)
    broker.stop('eb_client_egd')
    broker.start_egd()
    gets(40)
    words = vm.values()
    assert len(set(words)) == len(words)
