# SPDX-License-Identifier: GPL-2.0-or-later
"""rng-egd: as fast as the daemon, and none the worse for one that fails."""

import functools
import os
import socket
import threading
import time
from contextlib import closing

import pytest

from testlib import KIND
from testlib.egd import EgdDaemon, WebSocketDaemon
from testlib.hcalls import H_HARDWARE, H_SUCCESS
from testlib.limits import until
from testlib.machine import statistic
from testlib.programs import run


@pytest.fixture
def daemon(tmp_path):
    egd = EgdDaemon(tmp_path / 'egd')
    yield egd
    egd.stop()


@pytest.fixture
def start(guest, daemon):
    return functools.partial(guest, *daemon.backend(), timeout=0)


def until_connected(guest):
    """Wait until QEMU knows of its connection."""
    until(lambda: not any(chardev['filename'].startswith('disconnected:')
                          for chardev in guest.qemu.cmd('query-chardev')))


def assert_in_order(values, given, gaps=0):
    """
    Each word stands in what the daemon gave, behind the one before it.

    gaps: how often bytes may have got lost, in the middle of a word
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
    """Many bytes are asked for at once, not eight at a time."""
    daemon.start()
    guest = start()
    guest.call(20000)
    guest.finish()
    values = guest.values()
    assert len(values) == 20000
    given = b''.join(value.to_bytes(8, 'big') for value in values)
    assert bytes(daemon.given[:len(given)]) == given
    assert len(daemon.given) <= len(given) + 4096
    assert daemon.requests < 20000 / 20
    guest.quit()


def test_first_call_is_cheap(daemon, start):
    """One call takes eight bytes of the daemon, not a pool full."""
    daemon.start()
    guest = start()
    guest.call(1)
    guest.finish()
    time.sleep(0.1)
    assert len(daemon.given) == 8
    guest.quit()


def test_single_bytes(daemon, start):
    """Bytes that come one by one are no reason to ask for more at a time."""
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
    """Eight, and not more with each of them that comes."""
    daemon.single_bytes = True
    daemon.start()
    guest = start()
    for calls in 1, 2, 3:
        guest.call()
        guest.finish()
        assert daemon.asked == len(daemon.given) == 8 * calls
    guest.quit()


def test_daemon_hangs_up(daemon, start):
    """In the middle of answers, five times: what was asked for is again."""
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
    """A call that waits is answered by the next daemon."""
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
    """Calls fail in time, and succeed once there is a daemon."""
    guest = start(timeout=200)
    guest.call(10)
    guest.finish()
    assert guest.results() == [(H_HARDWARE, value)
                               for _, value in guest.results()]
    # The first one takes its time, and the others none.
    assert statistic(guest, 'waits') < 5
    daemon.start()
    guest.call_until_success()
    guest.quit()


def test_silent_daemon(daemon, start):
    """Whoever waits for it can still be stopped and ended."""
    daemon.silent = True
    daemon.start()
    guest = start(cpus=4)
    until_connected(guest)
    guest.call()
    assert guest.calls_wait()
    for command in ['stop', 'cont', 'system_reset']:
        guest.qemu.cmd(command)
    guest.quit()
    assert 'rng-egd' not in guest.log()


@pytest.mark.parametrize('option', ['reconnect-ms=1000', 'reconnect=1'])
def test_short_absence(daemon, guest, option):
    """
    A daemon that is back within 2 s: no call fails.

    Calls wait 5 s. A round in which this host took longer does not count.
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
    """QEMU listens, the daemon is a client; it goes and comes back."""
    path = tmp_path / 'websocket'
    vm = guest('rng-egd,chardev=egd', '-chardev',
               f'socket,id=egd,path={path},server=on,wait=off,websocket=on',
               timeout=0)
    with closing(WebSocketDaemon(path)) as daemon:
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


def test_multiplexed(out):
    """Refused: Ctrl-A among the bytes would be a command to the chardev."""
    done = run(out / KIND / 'qemu-system-ppc64', '-nodefaults', '-display',
               'none', '-chardev', 'null,id=egd,mux=on', '-object',
               'rng-egd,chardev=egd,id=rng0')
    assert done.returncode == 1
    said, hint = done.stderr.splitlines()
    assert said.endswith(
        "chardev 'egd' is multiplexed: its escape character would be cut out "
        'of the random bytes')
    assert hint == ('Leave mux=on out of the -chardev option, and give the '
                    'monitor a chardev of its own.')


class UdpDaemon:
    """An EGD daemon for datagrams, with an address from the beginning."""

    def __init__(self):
        self.given = bytearray()
        self.deaf = False   # what comes is lost
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
    """A daemon that was not started yet, and a guest that uses it."""
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
    """There are no connections, and what gets lost is asked for again."""
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
    """A daemon that comes late, goes, and is back."""
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
