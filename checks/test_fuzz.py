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
    """
    What the fuzzer printed, if it did not end well.

    Of its report about something that it found, the start and the end.
    """
    report = re.search(r'fuzz: (?s:.*?)(?=^==\d+== ERROR: libFuzzer|\Z)|\Z',
                       done.stderr, re.M)[0]
    if len(report) > 2000:
        report = f'{report[:1000]}\n[...]\n{report[-1000:]}'
    return done.returncode and (report + done.stdout or done.stderr)


def test_corpus():
    """Each input passes, and the fuzzer reads all of its steps."""
    done = fuzz(*CORPUS)
    assert not finding(done)
    for path in CORPUS:
        steps = [line for line in path.read_text().splitlines()
                 if not line.startswith('#')]
        assert '\n'.join(steps) in done.stderr
        assert f'Executed {path}' in done.stderr


def test_late_alarm(tmp_path):
    """A good word may make the window bad that began with an earlier input."""
    calls = 'call 12\n' * 3 + 'wait 30\n'
    inputs = ['feed 7\nstuck 25\nfeed 600\n' + calls,
              'feed 5000\n' + 7 * calls]
    for number, steps in enumerate(inputs):
        (tmp_path / str(number)).write_text('machine fifo\n' + steps)
    assert not finding(fuzz(tmp_path / '0', tmp_path / '1'))


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
