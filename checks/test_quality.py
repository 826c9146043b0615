# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/quality.py, and whether it detects bad data."""

import importlib
import json
import sys

import pytest

from testlib import TOP
from testlib.programs import run

BENCH = TOP / 'bench/quality.py'


@pytest.fixture(scope='module')
def bench():
    """The program as a module."""
    sys.path.insert(0, str(TOP / 'bench'))
    return importlib.import_module('quality')


def test_quality(tmp_path):
    done = run(BENCH, '--megabytes', '2', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'quality.json').read_text())['results']
    assert found['words'] == 250000
    assert found['calls'] == found['words'] + found['kernel_before'] + \
        found['kernel_meanwhile'] + found['kernel_after']
    assert '250,000 words' in (tmp_path / 'quality.md').read_text()


def test_comparison(bench):
    """A few words may be missing; repeated or wrong words are an error."""
    assert bench.skipped([23, 24, 25, 26]) == 0
    assert bench.skipped([23, 24, 29, 30, 32]) == 5
    for words in ([23, 24, 24], [23, 25, 24], [23, 24, 31],
                  [23, 24, 25 << 56]):
        with pytest.raises(bench.record.Failure,
                           match='word [12] of /dev/hwrng'):
            bench.skipped(words)


def test_lost_words(bench, tmp_path, monkeypatch):
    """It is an error if the device read more than the calls got."""
    draw = bench.draw

    def lossy(*args):
        disk, given = draw(*args)
        return disk, given + 8

    monkeypatch.setattr(bench, 'draw', lossy)
    with pytest.raises(bench.record.Failure, match='bytes for the guest'):
        bench.check_numbers(tmp_path, 1)
