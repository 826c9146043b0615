# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/quality.py, and whether it detects bad data."""

import importlib
import json
import os
import sys

import pytest

from testlib import TOP
from testlib.programs import run
from testlib.results import Failure

BENCH = TOP / 'bench/quality.py'


@pytest.fixture(scope='module')
def bench():
    """The program as a module."""
    sys.path.insert(0, str(TOP / 'bench'))
    return importlib.import_module('quality')


def quality(*args, **env):
    return run(BENCH, *args, env={**os.environ, **env})


def test_quality(tmp_path):
    done = quality('--megabytes', '7', '--exact', '2', '--out', tmp_path)
    assert done.returncode == 0
    results = json.loads((tmp_path / 'quality.json').read_text())['results']
    exact = results['exact']
    assert exact['words'] == 250000 and exact['wrong'] == 0
    assert exact['calls'] == exact['words'] + exact['kernel_before'] + \
        exact['kernel_meanwhile'] + exact['kernel_after']
    for side in results['guest'], results['host']:
        assert side['rngtest']['blocks'] == (7000000 - 4) // 2500
        # 2 failures are expected. More than 20 are practically impossible.
        assert side['rngtest']['failures'] <= 20
        assert [test['test'] for test in side['dieharder']] == [
            'diehard_2dsphere', 'diehard_3dsphere']
        assert all(0 <= test['p'] <= 1 for test in side['dieharder'])
    # Each side was tested on its own data.
    assert results['guest']['dieharder'] != results['host']['dieharder']
    assert '250,000 words, 0 wrong' in (tmp_path / 'quality.md').read_text()


def test_comparison(bench):
    """A few words may be missing; repeated or wrong words are an error."""
    assert bench.skipped([23, 24, 25, 26]) == 0
    assert bench.skipped([23, 24, 29, 30, 32]) == 5
    for words in ([23, 24, 24], [23, 25, 24], [23, 24, 31],
                  [23, 24, 25 << 56]):
        with pytest.raises(Failure, match='word [12] of /dev/hwrng'):
            bench.skipped(words)


def test_lost_words(bench, tmp_path, monkeypatch):
    """It is an error if the device read more than the calls got."""
    draw = bench.draw

    def lossy(*args):
        disk, given = draw(*args)
        return disk, given + 8

    monkeypatch.setattr(bench, 'draw', lossy)
    with pytest.raises(Failure, match='bytes for the guest'):
        bench.check_numbers(tmp_path, 1)


def test_bad_numbers(bench, tmp_path):
    """The tools reject data in which one bit of each byte is always 0."""
    path = tmp_path / 'bad'
    path.write_bytes(os.urandom(5 * 10 ** 6).translate(
        bytes(i & 0x7f for i in range(256))))
    found = bench.test_both(path, path, 5)['guest']
    assert found['rngtest']['failures'] == found['rngtest']['blocks'] == 1999
    assert 'FAILED' in [test['assessment'] for test in found['dieharder']]


@pytest.mark.parametrize('args, message', [
    (['--megabytes', '1'], '--megabytes: use 5 or more'),
    (['--exact', '0'], '--exact: use 1 or more'),
    (['--megabytes', 'x'], "invalid int value: 'x'"),
])
def test_bad_arguments(tmp_path, args, message):
    done = quality(*args, '--out', tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_tool(tmp_path):
    done = quality('--out', tmp_path, PATH=str(tmp_path))
    assert done.returncode != 0
    assert done.stderr == ('quality: there is no rngtest: run "apt-get '
                           'install rng-tools-debian"\n')
