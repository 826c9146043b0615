# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/run."""

import json
import subprocess
import xml.etree.ElementTree as ET

import pytest

from conftest import TOP


def bench(*args):
    done = subprocess.run([TOP / 'bench/run', *args], capture_output=True,
                          text=True, check=False, timeout=600)
    print(done.stdout, done.stderr)
    return done


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The directory that the results are in."""
    directory = tmp_path_factory.mktemp('bench')
    done = bench('--quick', '--out', directory)
    assert done.returncode == 0
    assert '1/' in done.stdout and ' left: ' in done.stdout
    return directory


@pytest.fixture
def found(made):
    return json.loads((made / 'bench.json').read_text())


def check(figures, rate, at_once=1):
    """
    Returns the median duration, which is hardly changed by what else goes on
    here, and the rate; at_once: of what the duration is of one
    """
    times = [figures[key] for key in ('p50_ns', 'p99_ns', 'p999_ns', 'max_ns')]
    assert 0 < times[0] and times == sorted(times) and times[-1] < 5e9
    assert figures['samples'] >= 100
    assert 1e3 < figures[rate] < 3e9 / times[0] * at_once
    return times[0], figures[rate]


def one(entries, **keys):
    """The only such entry."""
    entry, = (e for e in entries
              if all(e.get(key) == value for key, value in keys.items()))
    return entry


def test_bare_metal(found):
    entries = found['results']['bare_metal']

    def measured(call, qemu, source, pool_size=None):
        figures, = one(entries, vcpus=1, qemu=qemu, source=source,
                       pool_size=pool_size)[call]
        return check(figures, 'calls_per_s')

    for source in ('rng-random', 'rng-builtin'):
        ours, rate = measured('random', 'ours', source)
        peer, peers_rate = measured('random', 'peer', source)
        assert ours < peer / 50 and rate > 5 * peers_rate
        for qemu in ('ours', 'peer'):
            null, _ = measured('null', qemu, source)
            assert ours / 2 < null < ours * 1.5
        unpooled, _ = measured('random', 'ours', source, 8)
        pooled, _ = measured('random', 'ours', source, 4096)
        assert pooled < unpooled / 3
        assert ours / 2 < pooled < ours * 2
    daemon, _ = measured('random', 'ours', 'rng-egd')
    assert daemon < measured('random', 'ours', 'rng-egd', 8)[0] / 50
    peer = one(entries, source='rng-egd', qemu='peer')
    assert peer['random'] == [{'hangs_after_s': 5}]


def test_linux(found):
    entries = found['results']['linux']

    def measured(qemu, source, device):
        figures, = one(entries, vcpus=1, qemu=qemu, source=source)[device]
        # What virtio-rng gives in one piece
        return check(figures, 'bytes_per_s', 128)

    ours, rate = measured('ours', 'rng-random', 'spapr-rng')
    peer, peers_rate = measured('peer', 'rng-random', 'spapr-rng')
    assert ours < peer / 5 and rate > 5 * peers_rate
    for qemu in ('ours', 'peer'):
        for source in ('rng-random', 'rng-egd'):
            measured(qemu, source, 'virtio-rng-pci')
    measured('ours', 'rng-egd', 'spapr-rng')
    hangs, = one(entries, qemu='peer', source='rng-egd')['spapr-rng']
    assert list(hangs) == ['hangs_after_s'] and hangs['hangs_after_s'] >= 10


def test_whole_machine(found):
    boots, idle = found['results']['boot_s'], found['results']['idle']
    assert list(boots) == list(idle) == ['none', 'ours', 'peer']
    for who in boots:
        assert 0.5 < boots[who][0] < 60
        assert idle[who]['seconds'] == 3
        assert 0.001 < idle[who]['cpu_s'] < 1.5
    # Linux asks for some at boot.
    assert idle['none']['source_bytes_since_start'] == 0
    for who in ('ours', 'peer'):
        assert 8 <= idle[who]['source_bytes_since_start'] < 65536
        assert 0 <= idle[who]['source_bytes'] < 65536


def test_report(made, found):
    for key in ('command', 'date', 'machine', 'kernel', 'qemu', 'peer'):
        assert found[key]
    assert found['qemu'] == found['peer']
    lines = (made / 'bench.md').read_text().splitlines()
    for start in ('| null hypercall | 1 | ours |',
                  '| rng-builtin | 1 | peer |',
                  '| rng-egd | 1 | peer | hangs: no answer in 5 s |',
                  '| rng-random | 8 |',
                  '| spapr-rng | rng-random | 1 | peer |',
                  '| virtio-rng-pci | rng-egd | 1 | ours |',
                  '| boot, median |'):
        assert [line for line in lines if line.startswith(start)], start
    ours = one(found['results']['bare_metal'], source='rng-random', vcpus=1,
               qemu='ours', pool_size=None)['random'][0]
    assert f"| {ours['calls_per_s']:,} |" in '\n'.join(lines)

    # The picture has a label for each, which is the median, or that it hangs.
    svg = ET.parse(made / 'bench.svg')
    texts = {''.join(text.itertext()).strip()
             for text in svg.iter('{http://www.w3.org/2000/svg}text')}
    assert {'null hypercall', 'rng-egd', 'hangs',
            f"{ours['p50_ns']} ns"} <= texts


def test_out_is_a_file(tmp_path):
    path = tmp_path / 'file'
    path.touch()
    done = bench('--quick', '--out', path)
    assert done.returncode == 2
    assert f'--out: {path} is not a directory' in done.stderr


def test_unknown_argument():
    done = bench('--slow')
    assert done.returncode == 2
    assert 'unrecognized arguments: --slow' in done.stderr
