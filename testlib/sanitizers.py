# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMUs with sanitizers, and what these report."""

from pathlib import Path

HERE = Path(__file__).resolve().parent

# QEMU gives up the BQL in a coroutine when a migration comes in. The thread
# sanitizer takes that for another thread, and from then on does not know who
# has the BQL.
LOST = 'WARNING: ThreadSanitizer: unlock of an unlocked mutex'


def environment(log):
    """Variables that have every QEMU write reports to files named log.PID."""
    common = f'log_path={log}:'
    return {
        # Else, GLib hands memory from thread to thread on its own.
        'G_SLICE': 'always-malloc',
        'ASAN_OPTIONS': common + 'detect_leaks=1:fast_unwind_on_malloc=0',
        'LSAN_OPTIONS': f'suppressions={HERE}/leak.supp:'
                        'print_suppressions=0',
        'UBSAN_OPTIONS': common + 'halt_on_error=1:print_stacktrace=1',
        # QEMU holds more locks at a time than the detector of deadlocks can
        # keep in mind.
        'TSAN_OPTIONS': common + f'suppressions={HERE}/thread.supp:exitcode=0:'
                        'detect_deadlocks=0:atexit_sleep_ms=0',
    }


def reports(log):
    """What was reported, less the warning that all runs begin with."""
    texts = [path.read_text().partition(LOST)[0].rstrip('=\n')
             for path in log.parent.glob(f'{log.name}.*')]
    return '\n'.join(
        line for text in texts for line in text.splitlines()
        if "ASan doesn't fully support makecontext" not in line)
