# SPDX-License-Identifier: GPL-2.0-or-later
"""The limits that keep a check from hanging"""

import io
import subprocess
import sys
import threading
import time

import pytest

from bare_metal import within
from conftest import TOP

HANGS = """
import io, sys, threading, time
from bare_metal import within
def hang():
    with within(0.5):
        time.sleep(60)
sys.stderr = io.StringIO()
threading.Thread(target=hang).start()
"""


def test_main_thread():
    with pytest.raises(AssertionError, match='not done within 0.1 s'):
        with within(0.1):
            time.sleep(60)


def test_other_thread(monkeypatch):
    """Also where pytest has taken standard error away, and put no file there"""
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    done = []

    def quick():
        with within(60):
            done.append(True)

    thread = threading.Thread(target=quick)
    thread.start()
    thread.join()
    assert done


def test_hang_in_other_thread():
    """The process ends, and says where it was."""
    done = subprocess.run([sys.executable, '-c', HANGS], text=True, timeout=50,
                          check=False, capture_output=True, cwd=TOP / 'checks')
    assert done.returncode == 1
    assert 'in hang' in done.stderr
