# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/run."""

import json
import subprocess
import xml.etree.ElementTree as ET

import pytest

from conftest import TOP


def bench(*args):
    done = subprocess.run([TOP / 'bench/run', *args], capture_output=True,
                          text=True, check=False, timeout=200)
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


def check(figures, rate):
    """Returns the median, which others that use the machine hardly change."""
    times = [figures[key] for key in ('p50_ns', 'p99_ns', 'p999_ns', 'max_ns')]
    assert 0 < times[0] and times == sorted(times) and times[-1] < 2e9
    assert figures['samples'] >= 100
    assert figures[rate] > 1000
    return figures['p50_ns']


def one(entries, **keys):
    """The only such entry."""
    entry, = (e for e in entries
              if all(e.get(key) == value for key, value in keys.items()))
    return entry


def test_bare_metal(found):
    entries = found['results']['bare_metal']

    def median(call, **keys):
        figures, = one(entries, vcpus=1, **keys)[call]
        return check(figures, 'calls_per_s')

    for source in ('rng-random', 'rng-builtin'):
        ours, peer = ({call: median(call, source=source, qemu=qemu,
                                    pool_size=None)
                       for call in ('null', 'random')}
                      for qemu in ('ours', 'peer'))
        assert 20 * ours['random'] < peer['random']
        assert ours['random'] < 4 * ours['null']
        assert 1 / 3 < ours['null'] / peer['null'] < 3
        pools = [median('random', source=source, qemu='ours', pool_size=size)
                 for size in (8, 4096)]
        assert pools[0] > 2 * pools[1]
        assert 1 / 3 < pools[1] / ours['random'] < 3
    median('random', source='rng-egd', qemu='ours', pool_size=None)
    peer = one(entries, source='rng-egd', qemu='peer')
    assert peer['random'] == [{'hangs_after_s': 5}]


def test_linux(found):
    entries = found['results']['linux']

    def median(qemu, source, device):
        figures, = one(entries, vcpus=1, qemu=qemu, source=source)[device]
        return check(figures, 'bytes_per_s')

    ours, peer = (median(qemu, 'rng-random', 'spapr-rng')
                  for qemu in ('ours', 'peer'))
    assert 3 * ours < peer
    for qemu in ('ours', 'peer'):
        for source in ('rng-random', 'rng-egd'):
            median(qemu, source, 'virtio-rng-pci')
    median('ours', 'rng-egd', 'spapr-rng')
    hangs = one(entries, qemu='peer', source='rng-egd')['spapr-rng']
    assert hangs == [{'hangs_after_s': 15}]


def test_whole_machine(found):
    boots, idle = found['results']['boot_s'], found['results']['idle']
    assert list(boots) == list(idle) == ['none', 'ours', 'peer']
    for who in boots:
        assert 0.5 < boots[who][0] < 30
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
    tag = '{http://www.w3.org/2000/svg}text'
    texts = [''.join(text.itertext()).strip()
             for text in ET.parse(made / 'bench.svg').iter(tag)]
    assert {'null hypercall', 'rng-egd', 'hangs',
            f"{ours['p50_ns']} ns"} <= set(texts)


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
