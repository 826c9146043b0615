# SPDX-License-Identifier: GPL-2.0-or-later
"""Time limits for waiting, which keep checks from hanging."""

import time

# A step that takes as many seconds hangs. On a busy host, a quick step may
# take long, so that no check may fail because a step was slow. A check shows
# speed by counts, by ratios within one process, or by times that must not be
# shorter.
HANG = 180


def until(condition, seconds=HANG):
    """Wait until the condition is true; fail after so many seconds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)
