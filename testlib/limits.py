# SPDX-License-Identifier: GPL-2.0-or-later
"""How long to wait for what should come, so that nothing hangs."""

import faulthandler
import signal
import sys
import threading
import time
from contextlib import contextmanager

# What takes as many seconds hangs. A busy machine may stretch for long what is
# quick on an idle one, so that no time shows how fast something is: counts do,
# ratios within a process, and times that must not be shorter.
HANG = 180


def until(condition, seconds=HANG):
    """Wait for what should come long before."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


@contextmanager
def within(seconds):
    """
    Interrupts what takes longer, so that nothing hangs.

    Signals come to the main thread. pytest-xdist may run checks in another
    one: there, the whole worker ends, and the check is reported as failed.
    """
    def late(*_):
        raise AssertionError(f'not done within {seconds} s')

    if threading.current_thread() is not threading.main_thread():
        # sys.stderr is pytest's there, and may be no file.
        faulthandler.dump_traceback_later(seconds, exit=True,
                                          file=sys.__stderr__)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        return

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
