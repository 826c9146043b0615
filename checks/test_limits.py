# SPDX-License-Identifier: GPL-2.0-or-later
"""testlib/limits.py, which keeps a check from hanging."""

import sys

import pytest

from testlib import TOP
from testlib.programs import run

# pytest may replace sys.stderr by an object without a file.
PROGRAM = """
import io, sys, threading, time
from testlib.limits import within
def wait(seconds, limit):
    with within(limit):
        time.sleep(seconds)
    print('done')
sys.stderr = io.StringIO()
"""
OTHER = 'threading.Thread(target=wait, args=(%s)).start()'


def run_line(line):
    return run(sys.executable, '-c', PROGRAM + line, cwd=TOP)


@pytest.mark.parametrize('line', ['wait(0, 60)', OTHER % '0, 60'])
def test_in_time(line):
    done = run_line(line)
    assert (done.stdout, done.stderr) == ('done\n', '')


def test_late_in_main_thread():
    done = run_line('try:\n    wait(60, 0.1)\nexcept AssertionError as late:\n'
                    '    print(late)')
    assert done.stdout == 'not done within 0.1 s\n'


def test_late_in_other_thread():
    """The process ends, and prints where the thread was."""
    done = run_line(OTHER % '60, 0.1')
    assert done.returncode == 1 and 'in wait' in done.stderr
