# SPDX-License-Identifier: GPL-2.0-or-later
"""The fuzzer with random steps, and with the inputs of its corpus."""

import re

import pytest

from testlib import TOP
from testlib.programs import run

CORPUS = sorted((TOP / 'fuzz/corpus').iterdir())


def fuzz(*args):
    return run(TOP / 'fuzz/fuzz.py', *args)


def finding(done):
    """The start of the fuzzer's report, if it found something."""
    return done.returncode and re.search(
        r'fuzz: (?s:.{0,1000})|\Z', done.stderr)[0] + done.stdout


def test_corpus():
    """Each input passes, and the fuzzer reads all of its steps."""
    done = fuzz(*CORPUS)
    assert not finding(done)
    for path in CORPUS:
        steps = [line for line in path.read_text().splitlines()
                 if not line.startswith('#')]
        assert '\n'.join(steps) in done.stderr
        assert f'Executed {path}' in done.stderr


def test_fuzz():
    """Two minutes of random steps find nothing."""
    done = fuzz('120')
    assert not finding(done)
    inputs = int(re.search(r'^Done (\d+) runs', done.stderr, re.M).group(1))
    assert inputs > 20


@pytest.mark.parametrize('argument', ['nothing', '-1', ''])
def test_bad_argument(argument):
    done = fuzz(argument)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert 'number of seconds, or files' in done.stderr
