# SPDX-License-Identifier: GPL-2.0-or-later
"""Short runs of the programs of bench/, and their EGD daemon."""

import json
import socket
import sys
import time

import pytest

from testlib import TOP
from testlib.limits import HANG
from testlib.programs import run

sys.path.insert(0, str(TOP / 'bench'))

from many import QUOTA, SHARE, egd  # noqa: E402
from report import FIGURES  # noqa: E402


def measured(directory, program, *args):
    """Run a program of bench/; return its results as data, and as text."""
    done = run(TOP / f'bench/{program}.py', *args, '--out', directory)
    assert done.returncode == 0, done.stderr
    (data,), (text,) = directory.glob('*.json'), directory.glob('*.md')
    return json.loads(data.read_text()), text.read_text()


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
    """The data, the text and the figure of bench/compare.py."""
    directory = tmp_path_factory.mktemp('bench')
    return (*measured(directory, 'compare', '--quick'),
            (directory / 'bench.svg').read_text())


def median(figures, rate, at_once=1):
    """
    The median duration, which other load hardly changes; the rate must fit it.

    at_once: how many units of the rate one duration stands for
    """
    times = [figures[key] for key in FIGURES]
    assert 0 < times[0] and times == sorted(times)
    assert figures['samples'] >= 16
    assert 0 < figures[rate] < 10e9 / times[0] * at_once
    return times[0]


def test_bare_metal(compared):
    """
    Compare the cost of a call with that of a null hypercall of the process.

    With pool-size=8, each call needs a system call, or another process. A call
    of the peer costs hundreds of null hypercalls.
    """
    found = {(e['qemu'], e['source'], e.get('pool_size')): e
             for e in compared[0]['results']['bare_metal']}

    def cost(*key):
        (random,), (null,) = found[key]['random'], found[key]['null']
        return median(random, 'calls_per_s') / median(null, 'calls_per_s')

    for source, alone in (
            ('rng-random', 1.5), ('rng-builtin', 1.5), ('rng-egd', 50)):
        assert cost('ours', source, None) < 4
        assert cost('ours', source, 4096) < 4
        assert cost('ours', source, 8) > alone
    for source in ('rng-random', 'rng-builtin'):
        assert cost('peer', source, None) > 50
    assert found['peer', 'rng-egd', None]['random'] == [{'hangs_after_s': 15}]


def test_slow(compared):
    """The guest gets no more bytes than there are, and QEMU can be stopped."""
    for entry in compared[0]['results']['slow']:
        figures, = entry['slow']
        assert 0 < figures['monitor_median_ms'] <= figures['monitor_worst_ms']
        assert 0 < figures['bytes_per_s'] <= \
            1.5 * entry['chunk'] * 1000 / entry['chunk_ms']
        assert entry['qemu'] == 'peer' or 'stop_ms' in figures


def test_linux(compared):
    """
    Compare reads of 8 bytes with those of virtio-rng in the same process.

    A read is one call. With the peer, each call takes longer than a read from
    virtio-rng, most of which find bytes of an earlier request.
    """
    found = {(e['qemu'], e['source']): e
             for e in compared[0]['results']['linux']}

    def duration(device, *key):
        figures, = found[key][device]
        # Most reads of virtio-rng take a part of a request for 128 bytes.
        return median(figures, 'bytes_per_s', 128)

    def cost(*key):
        return duration('spapr-rng', *key) / duration('virtio-rng-pci', *key)

    assert cost('ours', 'rng-random') < 4 < cost('peer', 'rng-random')
    assert cost('ours', 'rng-egd') < 4
    assert duration('virtio-rng-pci', 'peer', 'rng-egd')
    hangs, = found['peer', 'rng-egd']['spapr-rng']
    assert hangs['hangs_after_s'] >= 30


def test_report(compared):
    found, text, figure = compared
    assert found['qemu'] == found['peer']
    ours, = found['results']['bare_metal'][0]['random']
    for part in ('| null hypercall | 1 | ours |',
                 f"| {ours['calls_per_s']:,} |",
                 '| rng-egd | 1 | peer | hangs: no answer in 15 s |',
                 '| rng-random | 8 |',
                 '| 32 bytes each 500 ms | ours | 64 |',
                 '| 32 bytes each 500 ms | peer | 64 |',
                 '| virtio-rng-pci | rng-egd | 1 | ours |'):
        assert part in text
    # The figure has a label for each measurement: the median, or "hangs".
    for label in ('null hypercall', 'rng-egd', 'hangs',
                  f"{ours['p50_ns']} ns"):
        assert f'>{label}</tspan>' in figure


def test_results():
    """All results are of one series, which the README names."""
    of, = {json.loads(path.read_text())['series']
           for path in (TOP / 'bench/results').glob('*.json')}
    assert f' of series {of})' in (TOP / 'README.md').read_text()


def test_soak(tmp_path):
    found, text = measured(tmp_path, 'soak', '--calls', '4000000',
                           '--migrations', '5')
    calls, moves = found['results']['calls'], found['results']['moves']
    assert calls['calls'] == 4000000
    assert moves['migrations'] == 5 and moves['calls'] > 5000
    assert '4,000,000' in text


def test_many(tmp_path):
    found, text = measured(tmp_path, 'many', '--guests', '2', '--seconds', '1')
    cases = found['results']['cases']
    for case in cases.values():
        assert len(case['calls']) == 2 and min(case['calls']) > 0
    # A guest that waits for its quota or its source gets far less.
    assert min(cases['urandom']['rates'] + cases['egd']['rates']) > 10 * QUOTA
    for name, limit in (('quota', QUOTA), ('slow8', SHARE)):
        assert max(cases[name]['rates']) <= 10 * limit
    assert cases['quota']['failed_calls'] == 0
    assert '2 guests call at once' in text


def test_slow_daemon(tmp_path):
    """The daemon keeps to its rate, and is fair to modest clients."""
    request, asked = bytes([2, 100]), 60000     # 30 s
    with (egd(tmp_path, 2000) as (_, args),
          socket.socket(socket.AF_UNIX) as greedy,
          socket.socket(socket.AF_UNIX) as modest):
        for client in greedy, modest:
            client.settimeout(HANG)
            client.connect(args[1].rpartition('=')[2])
        greedy.sendall(request * (asked // 100))
        start = time.monotonic()
        got = set()
        for _ in range(5):
            modest.sendall(request)
            got.add(modest.recv(100, socket.MSG_WAITALL))
        assert set(map(len, got)) == {100} and len(got) == 5
        # These answers, and four to the other client in between, take 50 ms
        # each, but for the first and the last.
        assert time.monotonic() - start >= 0.3
        assert len(greedy.recv(asked, socket.MSG_DONTWAIT)) < asked
