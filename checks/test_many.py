# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/many.py, and its EGD daemon."""

import json
import socket
import sys
import time

from testlib import TOP
from testlib.limits import HANG
from testlib.programs import run

sys.path.insert(0, str(TOP / 'bench'))

from many import QUOTA, SHARE, egd  # noqa: E402


def test_many(tmp_path):
    done = run(TOP / 'bench/many.py', '--guests', '2', '--seconds', '1',
               '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    cases = json.loads((tmp_path / 'many.json').read_text())[
        'results']['cases']
    assert set(cases) == {'none', 'urandom', 'quota', 'egd', 'slow', 'slow8'}
    for case in cases.values():
        assert len(case['calls']) == 2 and min(case['calls']) > 0
    # A guest that waits for its quota or its source gets far less.
    assert min(cases['urandom']['rates'] + cases['egd']['rates']) > 10 * QUOTA
    for name, limit in (('quota', QUOTA), ('slow8', SHARE)):
        assert max(cases[name]['rates']) <= 10 * limit
    assert cases['quota']['failed_calls'] == 0
    assert '2 guests call at once' in (tmp_path / 'many.md').read_text()


def test_slow_daemon(tmp_path):
    """The daemon keeps to its rate, and is fair to modest clients."""
    def connect():
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(HANG)
        client.connect(args[1].rpartition('=')[2])
        return client

    with egd(tmp_path, '2000') as (_, args):
        greedy, modest = connect(), connect()
        asked = 60000   # 30 s
        greedy.sendall(bytes([2, 100]) * (asked // 100))
        start = time.monotonic()
        got = set()
        for _ in range(5):
            modest.sendall(bytes([2, 100]))
            got.add(modest.recv(100, socket.MSG_WAITALL))
        assert set(map(len, got)) == {100} and len(got) == 5
        # These answers, and four to the other client in between, take 50 ms
        # each, but for the first and the last.
        assert time.monotonic() - start >= 0.3
        assert len(greedy.recv(asked, socket.MSG_DONTWAIT)) < asked
