# SPDX-License-Identifier: GPL-2.0-or-later
"""rng-egd: its speed, and daemons that fail."""

import contextlib
import functools
import os
import socket
import threading
import time

import pytest

from testlib import KIND, OUT
from testlib.egd import EgdDaemon, WebSocketDaemon, until_connected
from testlib.hcalls import H_HARDWARE, H_SUCCESS
from testlib.limits import HANG, until, within
from testlib.machine import set_property, statistic
from testlib.programs import run
from testlib.sources import waits_quietly


@pytest.fixture
def daemon(tmp_path):
    egd = EgdDaemon(tmp_path / 'egd')
    yield egd
    egd.stop()


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
    values = guest.values()
    assert len(values) == 20000
    given = b''.join(value.to_bytes(8, 'big') for value in values)
    assert bytes(daemon.given[:len(given)]) == given
    assert len(daemon.given) <= len(given) + 16384
    assert daemon.requests < 20000 / 20
    guest.quit()


def test_first_call_is_cheap(daemon, start):
    """The first call asks for its eight bytes only, not for a full pool."""
    daemon.start()
    guest = start()
    guest.call(1)
    guest.finish()
    time.sleep(0.1)
    assert len(daemon.given) == 8
    guest.quit()


def test_single_bytes(daemon, start):
    """If bytes come one by one, requests do not grow."""
    daemon.single_bytes = True
    daemon.start()
    guest = start(cpus=2)
    guest.call(200)
    guest.finish()
    assert_in_order(guest.values(0), daemon.given)
    assert_in_order(guest.values(1), daemon.given)
    assert not set(guest.values(0)) & set(guest.values(1))
    assert daemon.asked <= 400 * 8 + 8
    guest.quit()


def test_single_bytes_for_one_call(daemon, start):
    """One call asks for eight bytes, however they come."""
    daemon.single_bytes = True
    daemon.start()
    guest = start()
    for calls in 1, 2, 3:
        guest.call()
        guest.finish()
        assert daemon.asked == len(daemon.given) == 8 * calls
    guest.quit()


def test_daemon_hangs_up(daemon, start):
    """After each hang-up in an answer, the missing bytes are requested."""
    daemon.start()
    guest = start()
    guest.call(50000)
    for _ in range(5):
        before = daemon.connections
        daemon.hang_up(after=1001)
        until(lambda: daemon.connections > before)
    guest.finish()
    assert len(guest.values()) == 50000
    assert_in_order(guest.values(), daemon.given, gaps=5)
    guest.quit()


def test_daemon_dies_and_comes_back(daemon, start):
    """The next daemon answers a call that waits."""
    daemon.silent = True
    daemon.start()
    guest = start()
    until_connected(guest)
    guest.call()
    until(lambda: daemon.requests)
    daemon.stop()
    guest.qemu.cmd('query-status')
    daemon.silent = False
    daemon.start()
    guest.finish()
    assert_in_order(guest.values(), daemon.given)
    assert guest.log().count("there is no daemon at 'egd'") == 1
    assert guest.log().count("rng-egd 'rng0' gives data again") == 1
    guest.quit()


def test_no_daemon(daemon, start):
    """Calls fail after the timeout, and succeed once there is a daemon."""
    guest = start(timeout=200)
    guest.call(10)
    guest.finish()
    assert guest.results() == [(H_HARDWARE, value)
                               for _, value in guest.results()]
    # The first call waits for the timeout, and later calls fail at once.
    assert statistic(guest, 'waits') < 5
    daemon.start()
    guest.call_until_success()
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


# QEMU 10.2 has removed the option in seconds.
RECONNECT = ['reconnect-ms=1000'] + ['reconnect=1'] * (
    "'*reconnect':" in (OUT / 'qemu/qapi/char.json').read_text())


@pytest.mark.parametrize('option', RECONNECT)
def test_short_absence(daemon, guest, option):
    """
    No call fails if the daemon is back after 2 s, as calls wait for 5 s.

    A round in which a busy host took longer does not count.
    """
    daemon.start()
    vm = guest(*daemon.backend(option))
    until_connected(vm)
    rounds = counted = 0
    values = []
    while counted < 3:
        assert rounds < 20
        rounds += 1
        start = time.monotonic()
        daemon.stop()
        at = vm.count()
        vm.call(1500)
        time.sleep(2)
        daemon.start()
        until(lambda count=at + 1: vm.count() > count)
        took = time.monotonic() - start
        vm.finish()
        results = vm.results()[at:]
        if took < 4.5:
            counted += 1
            assert {status for status, _ in results} == {H_SUCCESS}
        values += [value for status, value in results if status == H_SUCCESS]
    assert_in_order(values, daemon.given, gaps=rounds)
    vm.quit()


def test_websocket(guest, tmp_path):
    """QEMU listens, and the daemon connects, disconnects and reconnects."""
    path = tmp_path / 'websocket'
    vm = guest('rng-egd,chardev=egd', '-chardev',
               f'socket,id=egd,path={path},server=on,wait=off,websocket=on',
               timeout=0)
    with contextlib.closing(WebSocketDaemon(path)) as daemon:
        vm.call(2000)
        assert vm.calls_wait()
        for left in 3001, 5000, None:
            if left:
                daemon.hang_up(after=left)
            daemon.start()
            if left:
                until(lambda: any(
                    chardev['filename'].startswith('disconnected:')
                    for chardev in vm.qemu.cmd('query-chardev')))
        vm.finish()
        assert_in_order(vm.values(), daemon.given, gaps=2)
        assert daemon.connections == 3
        vm.quit()


@pytest.mark.parametrize('option', ['mux', 'telnet', 'tn3270'])
def test_removes_bytes(out, tmp_path, option):
    """A chardev that takes random bytes for commands is refused."""
    done = run(out / KIND / 'qemu-system-ppc64', '-nodefaults', '-display',
               'none', '-chardev', f'socket,id=egd,path={tmp_path}/egd,'
               f'server=on,wait=off,{option}=on', '-object',
               'rng-egd,chardev=egd,id=rng0')
    assert done.returncode == 1
    said, hint = done.stderr.splitlines()
    assert said.endswith(f"chardev 'egd' has {option}=on, which would remove "
                         'random bytes')
    assert hint == 'Give rng-egd a -chardev of its own, without ' \
        f'{option}=on.'


@pytest.mark.parametrize('left_out', [1, 255], ids=['byte', 'answer'])
def test_lost(daemon, start, left_out):
    """What the daemon leaves out is asked for again."""
    daemon.start()
    guest = start(pool_size=8)
    for _ in range(2):
        guest.call(100)
        guest.finish()
        daemon.left_out = left_out
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
    words = b''.join(value.to_bytes(8, 'big') for value in guest.values())
    assert bytes(daemon.given[:800]) == words
    # There is one more command for each two seconds.
    assert 800 + 8 <= daemon.asked < 1000
    guest.quit()


def test_set_again(daemon, start):
    """A backend whose request was cancelled asks for bytes again."""
    daemon.silent = True
    daemon.start()
    guest = start('-object', 'rng-builtin,id=rng1')
    guest.call()
    until(lambda: daemon.requests)
    set_property(guest, 'rng', 'rng1')
    guest.finish()
    set_property(guest, 'rng', 'rng0')
    daemon.silent = False
    guest.call(1000)
    guest.finish()
    assert_in_order(guest.values()[-100:], daemon.given)
    guest.quit()


def test_pipe(guest, tmp_path):
    """The daemon is started again, and the character device stays open."""
    for end in 'in', 'out':
        os.mkfifo(tmp_path / f'egd.{end}')
    vm = guest('rng-egd,chardev=egd', '-chardev',
               f'pipe,id=egd,path={tmp_path}/egd', timeout=0, pool_size=8)
    given = b''
    vm.call(2)
    for _ in range(2):
        with within(HANG), \
                open(tmp_path / 'egd.out', 'rb', 0) as commands, \
                open(tmp_path / 'egd.in', 'wb', 0) as answers:
            commands.read(2)    # has no answer
            given += os.urandom(commands.read(2)[1])
            answers.write(given[-8:])
    vm.finish()
    assert_in_order(vm.values(), given)
    vm.quit()


@pytest.mark.parametrize('peer', ['deaf', 'no handshake', 'full'])
def test_takes_no_commands(guest, tmp_path, peer):
    """That is reported once, and QEMU does not spin."""
    path = tmp_path / 'egd'
    chardev = f'socket,id=egd,path={path}'
    said = 'no command can be sent to'
    with socket.socket(socket.AF_UNIX) as end:
        if peer == 'deaf':
            end.bind(str(path))
            end.listen()
        elif peer == 'full':
            chardev = 'file,id=egd,path=/dev/full'
        else:
            chardev += ',server=on,wait=off,websocket=on'
            said = 'there is no daemon at'
        vm = guest('rng-egd,chardev=egd', '-chardev', chardev, timeout=0)
        if peer == 'deaf':
            connection, _ = end.accept()
            connection.shutdown(socket.SHUT_RD)
        elif peer == 'no handshake':
            end.connect(str(path))
        vm.call()
        waits_quietly(vm, [f"rng-egd 'rng0': {said} 'egd'; requests wait "
                           'until it gives data'])
        vm.quit()


def test_unasked(guest, daemon):
    """A daemon that sends without reading commands is a source, too."""
    given = bytearray()

    def flood(connection):
        with contextlib.suppress(OSError):
            while True:
                data = os.urandom(4096)
                given.extend(data)
                connection.sendall(data)

    daemon._serve = flood
    daemon.start()
    vm = guest(*daemon.backend(), timeout=0, pool_size=8)
    vm.call(2000)
    vm.finish()
    assert_in_order(vm.values(), given)
    vm.quit()


class UdpDaemon:
    """An EGD daemon for datagrams, which has its port before its start."""

    def __init__(self):
        self.given = bytearray()
        self.deaf = False   # lose all requests
        self.lost = 0
        self._socket = self._bind(0)
        self.port = self._socket.getsockname()[1]
        self._socket.close()

    @staticmethod
    def _bind(port):
        new = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        new.bind(('127.0.0.1', port))
        return new

    def start(self):
        self._socket = self._bind(self.port)
        threading.Thread(target=self._serve, args=(self._socket,),
                         daemon=True).start()

    def _serve(self, served):
        while True:
            request, sender = served.recvfrom(4096)
            if request == b'end':
                served.close()
                return
            if self.deaf:
                self.lost += 1
                continue
            for command, size in zip(request[::2], request[1::2]):
                assert command == 2
                data = os.urandom(size)
                self.given += data
                served.sendto(data, sender)

    def stop(self):
        self._bind(0).sendto(b'end', ('127.0.0.1', self.port))


@pytest.fixture
def udp(guest):
    """A daemon that was not started yet, and a guest with this daemon."""
    daemon = UdpDaemon()
    vm = guest('rng-egd,chardev=egd', '-chardev',
               f'udp,id=egd,host=127.0.0.1,port={daemon.port},'
               'localaddr=127.0.0.1,localport=0', timeout=0)
    return daemon, vm


def check_datagrams(daemon, vm):
    vm.call(1000)
    vm.finish()
    assert_in_order(vm.values(), daemon.given)


def test_datagrams(udp):
    """Lost datagrams are requested again, as there is no connection."""
    daemon, vm = udp
    daemon.start()
    check_datagrams(daemon, vm)
    daemon.deaf = True
    vm.call(1000)
    until(lambda: daemon.lost)
    assert vm.calls_wait()
    daemon.deaf = False
    vm.finish()
    assert_in_order(vm.values(), daemon.given)
    vm.quit()
    daemon.stop()
    assert 'no daemon' not in vm.log()


def test_datagrams_to_nobody(udp):
    """The daemon starts late, stops, and starts again."""
    daemon, vm = udp
    vm.call()
    assert vm.calls_wait()
    time.sleep(1.2)
    daemon.start()
    vm.finish()
    check_datagrams(daemon, vm)
    daemon.stop()
    vm.call(1000)
    assert vm.calls_wait()
    time.sleep(1.2)
    daemon.start()
    vm.finish()
    assert_in_order(vm.values(), daemon.given)
    vm.quit()
    daemon.stop()
