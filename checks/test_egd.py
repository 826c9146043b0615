# SPDX-License-Identifier: GPL-2.0-or-later
"""rng-egd: its speed, and daemons that fail."""

import contextlib
import functools
import os
import socket
import socketserver
import struct
import threading
import time

import pytest

from testlib import KIND, OUT
from testlib.egd import EgdDaemon, until_connected
from testlib.limits import HANG, until
from testlib.programs import run
from testlib.sources import waits_quietly


@pytest.fixture
def daemon(tmp_path):
    with contextlib.closing(EgdDaemon(tmp_path / 'egd')) as egd:
        yield egd


@pytest.fixture
def start(guest, daemon):
    return functools.partial(guest, *daemon.backend(), timeout=0)


def assert_in_order(values, given, gaps=0):
    """
    Check that the words are in the daemon's bytes, in this order.

    gaps: how often bytes may have been lost in the middle of a word
    """
    at = 0
    for value in values:
        found = given.find(value.to_bytes(8, 'big'), at)
        if found < 0:
            assert gaps > 0
            gaps -= 1
        else:
            at = found + 8


def test_throughput(daemon, start):
    """A request is for many bytes, not for the eight bytes of one call."""
    daemon.start()
    guest = start()
    guest.call(20000)
    guest.finish()
    words = struct.pack('>20000Q', *guest.values())
    assert daemon.given.startswith(words)
    assert len(daemon.given) <= len(words) + 16384
    assert daemon.requests < 20000 / 20
    guest.quit()


def test_single_bytes(daemon, start):
    """A call asks for eight bytes, however they come, and requests stay so."""
    daemon.single_bytes = True
    daemon.start()
    guest = start(cpus=2)
    for calls in 1, 2, 3:
        guest.call(cpus=[0])
        guest.finish()
        assert daemon.asked == len(daemon.given) == 8 * calls
    guest.call(200)
    guest.finish()
    assert daemon.asked <= (3 + 400 + 1) * 8
    assert_in_order(guest.values(0), daemon.given)
    assert_in_order(guest.values(1), daemon.given)
    assert not set(guest.values(0)) & set(guest.values(1))
    guest.quit()


def test_daemon_hangs_up(daemon, start):
    """After each hang-up in an answer, the missing bytes are requested."""
    daemon.start()
    guest = start()
    for _ in range(5):
        before = daemon.connections
        daemon.hang_up(after=1001)
        guest.call(5000)    # more than were read ahead
        until(lambda: daemon.connections > before)
        guest.finish()
    assert len(guest.values()) == 25000
    assert_in_order(guest.values(), daemon.given, gaps=5)
    guest.quit()


def test_daemon_dies_and_comes_back(daemon, start):
    """The next daemon answers calls that wait, before their timeout."""
    daemon.silent = True
    daemon.start()
    guest = start(timeout=1000 * HANG)
    until_connected(guest)
    guest.call(1500)
    until(lambda: daemon.requests)
    daemon.stop()
    said = ["rng-egd 'rng0': there is no daemon at 'egd'; requests wait until "
            'it gives data']
    until(lambda: guest.reports() == said)
    daemon.silent = False
    daemon.start()
    guest.finish()
    assert_in_order(guest.values(), daemon.given)
    assert guest.reports() == said + ["rng-egd 'rng0' gives data again"]
    guest.quit()


def test_silent_daemon(daemon, start):
    """
    A machine whose calls wait for the daemon can be stopped and ended.

    A daemon may answer late: it is asked for only eight bytes more at a time.
    """
    def is_asked_for_eight():
        asked, requests = daemon.asked, daemon.requests
        until(lambda: daemon.requests >= requests + 2)
        return daemon.asked - asked == 8 * (daemon.requests - requests)

    daemon.start()
    guest = start(cpus=4)
    until_connected(guest)
    guest.call(1000)
    guest.finish()
    daemon.silent = True
    guest.call(1000)
    until(guest.calls_wait)
    for command in ['stop', 'cont', 'system_reset']:
        guest.qemu.cmd(command)
    until(is_asked_for_eight)
    guest.quit()
    assert 'rng-egd' not in guest.log()


@pytest.mark.parametrize('option', ['mux', 'telnet', 'tn3270'])
def test_removes_bytes(tmp_path, option):
    """A chardev that takes random bytes for commands is refused."""
    done = run(OUT / KIND / 'qemu-system-ppc64', '-display', 'none',
               '-chardev', f'socket,id=egd,path={tmp_path}/egd,'
               f'server=on,wait=off,{option}=on', '-object',
               'rng-egd,chardev=egd,id=rng0')
    assert done.returncode == 1
    said, hint = done.stderr.splitlines()
    assert said.endswith(f"chardev 'egd' has {option}=on, which would remove "
                         'random bytes')
    assert hint == 'Give rng-egd a -chardev of its own, without ' \
        f'{option}=on.'


def test_lost(daemon, start):
    """A byte or an answer that the daemon leaves out is asked for again."""
    daemon.start()
    guest = start(pool_size=8)
    for left_out in 0, 1, 255:
        daemon.left_out = left_out
        guest.call(100)
        guest.finish()
    assert_in_order(guest.values(), daemon.given)
    guest.quit()


def test_late(daemon, start):
    """Late bytes are used once, and a slow daemon is not asked for many."""
    def late(size):
        time.sleep(5)
        daemon.random = os.urandom
        return os.urandom(size)

    daemon.start()
    guest = start(pool_size=8)
    daemon.random = late
    guest.call(100)
    guest.finish()
    assert daemon.given.startswith(struct.pack('>100Q', *guest.values()))
    # There is one more command for each two seconds.
    assert 800 + 8 <= daemon.asked < 1000
    guest.quit()


@pytest.mark.parametrize('peer', ['deaf', 'full', 'nobody'])
def test_takes_no_commands(guest, tmp_path, peer):
    """That is reported once, and QEMU does not spin."""
    path = tmp_path / 'egd'
    chardev = {'deaf': f'socket,path={path}',
               'full': 'file,path=/dev/full',
               'nobody': f'socket,path={path},server=on,wait=off'}[peer]
    said = 'there is no daemon at' if peer == 'nobody' else \
        'no command can be sent to'
    with socket.socket(socket.AF_UNIX) as listener:
        if peer == 'deaf':
            listener.bind(str(path))
            listener.listen()
        vm = guest('rng-egd,chardev=egd', '-chardev', f'{chardev},id=egd',
                   timeout=0)
        if peer == 'deaf':
            connection, _ = listener.accept()
            connection.shutdown(socket.SHUT_RD)
        vm.call()
        waits_quietly(vm, [f"rng-egd 'rng0': {said} 'egd'; requests wait "
                           'until it gives data'])
        vm.quit()


def test_unasked(daemon, start):
    """A daemon that sends without reading commands is a source, too."""
    daemon.unasked = True
    daemon.start()
    guest = start(pool_size=8)
    guest.call(2000)
    guest.finish()
    assert_in_order(guest.values(), daemon.given)
    guest.quit()


class Datagram(socketserver.BaseRequestHandler):
    """Answers the commands of a datagram."""

    def handle(self):
        commands, sender = self.request
        for size in commands[1::2]:
            data = os.urandom(size)
            self.server.given += data
            sender.sendto(data, self.client_address)


@contextlib.contextmanager
def datagram_daemon(given, port=0):
    """Serve on a UDP port, which is the value; 0: one that is free."""
    with socketserver.UDPServer(('127.0.0.1', port), Datagram) as server:
        server.given = given
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_datagrams(guest):
    """Lost datagrams are sent again when the daemon has started again."""
    given = bytearray()
    with datagram_daemon(given) as port:
        vm = guest('rng-egd,chardev=egd', '-chardev',
                   f'udp,id=egd,host=127.0.0.1,port={port},'
                   'localaddr=127.0.0.1,localport=0', timeout=0)
        vm.call(1000)
        vm.finish()
    assert vm.log() == ''
    vm.call(1000)
    assert vm.calls_wait()
    with datagram_daemon(given, port):
        vm.finish()
    assert_in_order(vm.values(), given)
    vm.quit()
