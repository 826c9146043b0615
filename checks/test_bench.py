# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/compare.py."""

import json
import xml.etree.ElementTree as ET

import pytest

from testlib import TOP
from testlib.limits import HANG
from testlib.programs import run


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The directory with the results."""
    directory = tmp_path_factory.mktemp('bench')
    done = run(TOP / 'bench/compare.py', '--quick', '--out', directory)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def found(made):
    return json.loads((made / 'bench.json').read_text())


def check(figures, rate, at_once=1):
    """
    Check figures for consistency.

    Returns the median duration, which other load hardly changes.

    at_once: how many units of the rate one duration stands for
    """
    times = [figures[key] for key in ('p50_ns', 'p99_ns', 'p999_ns', 'max_ns')]
    assert 0 < times[0] and times == sorted(times) and times[-1] < HANG * 1e9
    assert figures['samples'] >= 16
    assert 0 < figures[rate] < 10e9 / times[0] * at_once
    return times[0]


def one(entries, **keys):
    """The only entry with these keys."""
    entry, = (e for e in entries
              if all(e.get(key) == value for key, value in keys.items()))
    return entry


def test_bare_metal(found):
    """
    Compare the cost of a call with that of a null hypercall of the process.

    A call of this device costs little more. With a system call for each call,
    it would cost 15 times as much; if another thread had to wake up, hundreds
    of times.
    """
    entries = found['results']['bare_metal']

    def cost(qemu, source, pool_size=None):
        entry = one(entries, vcpus=1, qemu=qemu, source=source,
                    pool_size=pool_size)
        (random,), (null,) = entry['random'], entry['null']
        return check(random, 'calls_per_s') / check(null, 'calls_per_s')

    for source in ('rng-random', 'rng-builtin'):
        assert cost('ours', source) < 4
        assert cost('ours', source, 4096) < 4
        assert cost('ours', source, 8) > 1.5
        assert cost('peer', source) > 50
    assert cost('ours', 'rng-egd') < 4
    assert cost('ours', 'rng-egd', 8) > 50
    peer = one(entries, source='rng-egd', qemu='peer')
    assert peer['random'] == [{'hangs_after_s': 15}]


def test_slow(found):
    """The guest gets no more bytes than there are, and QEMU can be stopped."""
    entries = found['results']['slow']
    assert {e['qemu'] for e in entries} == {'ours', 'peer'}
    for entry in entries:
        figures, = entry['slow']
        assert 0 < figures['monitor_median_ms'] <= figures['monitor_worst_ms']
        assert 0 < figures['bytes_per_s'] <= \
            1.5 * entry['chunk'] * 1000 / entry['chunk_ms']
        if entry['qemu'] == 'ours':
            assert figures['stop_ms'] < HANG * 1e3


def test_linux(found):
    """
    Compare reads of 8 bytes with those of virtio-rng in the same process.

    A read is one call. With the peer, each call takes longer than a read from
    virtio-rng, most of which find bytes of an earlier request.
    """
    entries = found['results']['linux']

    def measured(qemu, source, device):
        figures, = one(entries, vcpus=1, qemu=qemu, source=source)[device]
        # Most reads of virtio-rng take a part of a request for 128 bytes.
        return check(figures, 'bytes_per_s', 128)

    def cost(qemu):
        return measured(qemu, 'rng-random', 'spapr-rng') / \
            measured(qemu, 'rng-random', 'virtio-rng-pci')

    assert cost('ours') < 4 < cost('peer')
    for qemu in ('ours', 'peer'):
        measured(qemu, 'rng-egd', 'virtio-rng-pci')
    measured('ours', 'rng-egd', 'spapr-rng')
    hangs, = one(entries, qemu='peer', source='rng-egd')['spapr-rng']
    assert list(hangs) == ['hangs_after_s'] and hangs['hangs_after_s'] >= 30


def test_report(made, found):
    for key in ('command', 'date', 'machine', 'kernel', 'qemu', 'peer'):
        assert found[key]
    assert found['qemu'] == found['peer']
    text = (made / 'bench.md').read_text()
    for start in ('| null hypercall | 1 | ours |',
                  '| rng-egd | 1 | peer | hangs: no answer in 15 s |',
                  '| rng-random | 8 |',
                  '| 32 bytes each 500 ms | peer | 64 |',
                  '| virtio-rng-pci | rng-egd | 1 | ours |'):
        assert f'\n{start}' in text
    ours = one(found['results']['bare_metal'], source='rng-random', vcpus=1,
               qemu='ours', pool_size=None)['random'][0]
    assert f"| {ours['calls_per_s']:,} |" in text

    # The figure has a label for each measurement: the median, or "hangs".
    svg = ET.parse(made / 'bench.svg')
    texts = {''.join(text.itertext()).strip()
             for text in svg.iter('{http://www.w3.org/2000/svg}text')}
    assert {'null hypercall', 'rng-egd', 'hangs',
            f"{ours['p50_ns']} ns"} <= texts


def test_results():
    """All results are of one series, which the README names."""
    of, = {json.loads(path.read_text())['series']
           for path in (TOP / 'bench/results').glob('*.json')}
    assert f' of series {of})' in (TOP / 'README.md').read_text()
