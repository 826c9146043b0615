# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/many.py, its sums, and its EGD daemon."""

import importlib
import json
import socket
import sys
import time
from types import SimpleNamespace

import pytest

from testlib import TOP
from testlib.limits import HANG
from testlib.programs import run

BENCH = TOP / 'bench/many.py'


@pytest.fixture(name='bench', scope='module')
def bench_fixture():
    """The program as a module."""
    sys.path.insert(0, str(TOP / 'bench'))
    return importlib.import_module('many')


def test_many(tmp_path, bench):
    done = run(BENCH, '--guests', '2', '--seconds', '1', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    cases = json.loads((tmp_path / 'many.json').read_text())[
        'results']['cases']
    assert set(cases) == {'none', 'urandom', 'quota', 'egd', 'slow', 'slow8'}
    for case in cases.values():
        assert len(case['calls']) == 2 and min(case['calls']) > 0
    # A guest that waits for its quota or its source gets far less.
    assert min(cases['urandom']['rates'] + cases['egd']['rates']) > \
        10 * bench.QUOTA
    for name, limit in (('quota', bench.QUOTA), ('slow8', bench.SHARE)):
        assert max(cases[name]['rates']) <= 10 * limit
    assert cases['quota']['failed_calls'] == 0
    assert '2 guests call at once' in (tmp_path / 'many.md').read_text()


@pytest.mark.parametrize('missing', [-1, 2])
def test_lost_call_is_seen(bench, missing):
    """One call may be in progress, but no further call may be missing."""
    def guest(calls):
        return SimpleNamespace(
            qemu=SimpleNamespace(cmd=lambda *_, **__: 3),  # 3 timeouts
            get=lambda *_: calls)

    assert bench.check_guest(guest(103), 800) == 3
    assert bench.check_guest(guest(102), 800) == 3
    with pytest.raises(bench.record.Failure, match='make'):
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
