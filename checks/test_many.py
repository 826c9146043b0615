# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/many.py, its computations, and its EGD daemon."""

import importlib
import json
import socket
import sys
import time
from types import SimpleNamespace

import pytest

from testlib import TOP
from testlib.hcalls import COUNT
from testlib.limits import HANG
from testlib.programs import run
from testlib.results import Failure

BENCH = TOP / 'bench/many.py'
FACTS = {'boot_bytes': 240, 'idle_bytes_per_s': 4, 'urandom_ns': 80,
         'daemon_ns_per_byte': 20, 'quota': 1000, 'quota_ns': 50000,
         'egd_ns': 1000,
         'memory_kib': {'median': -4, 'greatest': 12, 'pss': 8}}


@pytest.fixture(name='bench', scope='module')
def bench_fixture():
    """The program as a module."""
    sys.path.insert(0, str(TOP / 'bench'))
    return importlib.import_module('many')


def many(*args):
    return run(BENCH, *args)


def test_many(tmp_path, bench):
    page = tmp_path / 'page.md'
    page.write_text('\n'.join(['before', bench.MARKS[0], 'old',
                               bench.MARKS[1], 'after', '']))
    done = many('--guests', '2', '--seconds', '1', '--idle', '1',
                '--out', tmp_path, '--page', page)
    assert done.returncode == 0
    results = json.loads((tmp_path / 'many.json').read_text())['results']
    cases = results['cases']
    assert set(cases) == {'none', 'urandom', 'quota', 'egd', 'slow', 'slow8'}
    for case in cases.values():
        assert len(case['calls']) == 2 and min(case['calls']) > 0
        assert case['seconds'] >= 1
    for name in ('urandom', 'egd'):
        # A guest that waits for its quota gets far less.
        assert min(cases[name]['bytes']) > \
            10 * bench.QUOTA * cases[name]['seconds']
    for name, limit in (('quota', bench.QUOTA), ('slow8', bench.SHARE)):
        # On a busy host, the bytes may be counted long after the time was
        # taken. Without a limit, a guest would get thousands of times as much.
        seconds = cases[name]['seconds']
        assert sum(cases[name]['bytes']) / 2 <= 10 * limit * (seconds + 1)
    assert cases['quota']['failed_calls'] == 0
    # Each call waits.
    assert cases['quota']['cpu_ns_per_call'] > 1000
    assert 100 < cases['urandom']['memory_kib'][0]['RssAnon'] < 10 ** 6
    assert 64 <= results['linux']['boot_bytes'] < 10000

    tables = (tmp_path / 'many.md').read_text()
    assert '2 guests call at once' in tables
    assert f"1,000 × {results['linux']['boot_bytes']} |" in tables
    text = page.read_text()
    assert text.startswith(f'before\n{bench.MARKS[0]}\n\n2 guests call')
    assert text.endswith(f'\n\n{bench.MARKS[1]}\nafter\n')
    assert 'old' not in text
    assert text.split(bench.MARKS[0])[1].split(bench.MARKS[1])[0].strip() in \
        tables


@pytest.mark.parametrize('line', [
    '| all boot at once | 240,000 bytes | 1,000 × 240 |',
    '| — from urandom | 2.4 ms of one core | 1,000 × 240 / 8 × 80 ns |',
    '| — from one EGD daemon | 4.8 ms of its core | 1,000 × 240 × 20 ns |',
    '| all idle | 4,000 bytes/s | 1,000 × 4 bytes/s |',
    '| memory of all devices, at most | 12 MiB | 1,000 × 12 KiB |',
    '| one EGD daemon, no quota: each guest gets, at most | 50,000 bytes/s '
    '| 1 / 20 ns / 1,000 |',
    '| — which keeps busy, of the guests | 6.2 cores | 50,000,000 bytes/s / 8 '
    '× 1,000 ns |',
    '| — which keeps busy | 6.2 cores | × 50,000 ns |',
    '| — with this quota, one core | 160 bytes/s | 8 bytes / 50,000 ns / '
    '1,000 |',
    '| 10,000 bytes/s | 10 bytes/s | 40 % | 24 s | 26 s, times out | 0.8 s | '
    'max-bytes=10,period=1000 | 4000 |',
    '| 1,000,000 bytes/s | 1,000 bytes/s | 0.4 % | 0.24 s | 0.26 s | 0.008 s '
    '| max-bytes=1000,period=1000 | 1000 |',
])
def test_thousand(bench, line):
    assert line in bench.extrapolate.lines_of(FACTS)


@pytest.fixture
def clock(bench, monkeypatch):
    """A clock that advances only while bench/many.py sleeps."""
    now = SimpleNamespace(time=1000.0)

    def sleep(seconds):
        now.time += seconds

    monkeypatch.setattr(bench, 'time', SimpleNamespace(
        monotonic=lambda: now.time, sleep=sleep))
    return now


class FakeGuest:  # pylint: disable=too-few-public-methods
    """A guest that makes `rate` calls a second for `stops` seconds."""

    def __init__(self, clock, rate, stops=10 ** 6):
        self.clock, self.rate = clock, rate
        self.end = clock.time + stops

    def get(self, _, field):
        assert field == COUNT
        return int(min(self.clock.time, self.end) * self.rate)


def test_pause_is_seen(bench, clock):
    (going, stopping), apart = bench.watch(
        [FakeGuest(clock, 10000), FakeGuest(clock, 10000, 0.3)], 1.5)
    assert going == 0 and stopping == pytest.approx(1.2, abs=0.11)
    assert apart == pytest.approx(bench.POLL)


def test_late_look_is_no_pause(bench, clock, monkeypatch):
    monkeypatch.setattr(bench, 'POLL', 0.7)
    assert bench.watch([FakeGuest(clock, 10000)], 1)[0] == [0]


def test_bytes_in_that_time(bench):
    """Bytes are scaled, as QEMU answers each guest's query at its own time."""
    assert bench.in_that_time([(0, 0), (1, 0)], [(5, 500), (3, 1000)],
                              2) == [200, 1000]


@pytest.mark.parametrize('missing', [-1, 2])
def test_lost_call_is_seen(bench, missing):
    """One call may be in progress, but no further call may be missing."""
    def guest(calls):
        return SimpleNamespace(
            qemu=SimpleNamespace(cmd=lambda *_, **__: 3),  # 3 timeouts
            get=lambda *_: calls)

    assert bench.check_guest(guest(103), 800) == 3
    assert bench.check_guest(guest(102), 800) == 3
    with pytest.raises(Failure, match='make'):
        bench.check_guest(guest(103 - missing), 800)


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(HANG)
    client.connect(str(path))
    return client


def ask(client, size):
    client.sendall(bytes([2, size]))
    return client.recv(size, socket.MSG_WAITALL)


def test_daemon(bench, tmp_path):
    with bench.egd(tmp_path) as (daemon, args):
        path = args[1].rpartition('=')[2]
        clients = [connect(path) for _ in range(3)]
        got = [ask(client, 255) for client in clients * 2]
        assert [len(data) for data in got] == [255] * 6
        assert len(set(got)) == 6
        # A request in two pieces
        clients[0].sendall(b'\2')
        time.sleep(0.05)
        clients[0].sendall(b'\x10')
        assert len(clients[0].recv(16, socket.MSG_WAITALL)) == 16
        # The daemon hangs up after an unknown request, on that client only.
        clients[1].sendall(b'\3\1')
        assert clients[1].recv(1) == b''
        assert len(ask(clients[2], 8)) == 8
        assert daemon.poll() is None
    assert daemon.poll() is not None


def test_slow_daemon(bench, tmp_path):
    """The daemon keeps to its rate, and is fair to modest clients."""
    with bench.egd(tmp_path, '2000') as (_, args):
        path = args[1].rpartition('=')[2]
        greedy, modest = connect(path), connect(path)
        asked = 60000   # 30 s
        greedy.sendall(bytes([2, 100]) * (asked // 100))
        start = time.monotonic()
        for _ in range(5):
            ask(modest, 100)
        # 5 requests of this client and as many of the other one, 50 ms each
        assert time.monotonic() - start >= 0.4
        assert len(greedy.recv(asked, socket.MSG_DONTWAIT)) < asked


@pytest.mark.parametrize('args, message', [
    (['--guests', '1'], '--guests: use 2 to 500'),
    (['--seconds', '0'], '--seconds: use 1 or more'),
    (['--idle', '0'], '--idle: use 1 or more'),
    (['--page', '/nonexistent'], "--page: [Errno 2] No such file"),
    (['--page', '/dev/null'], '--page: /dev/null has no "<!-- bench/many'),
])
def test_bad_arguments(tmp_path, args, message):
    done = many(*args, '--out', tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_page(bench):
    """The page has both marks once, with the tables of the last result."""
    text = (TOP / 'docs/many-guests.md').read_text()
    assert 0 <= text.find(bench.MARKS[0]) < text.find(bench.MARKS[1])
    assert text.count(bench.MARKS[0]) == text.count(bench.MARKS[1]) == 1
    measured = TOP / 'bench/results/many.md'
    if measured.exists():
        assert text.split(bench.MARKS[0])[1].split(bench.MARKS[1])[0].strip() \
            in measured.read_text()
