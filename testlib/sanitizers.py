# SPDX-License-Identifier: GPL-2.0-or-later
"""How to run a QEMU with sanitizers, and to read their reports."""

from testlib import TOP

# For an incoming migration, QEMU unlocks the BQL in a coroutine. The thread
# sanitizer takes the coroutine for another thread, and from then on does not
# know which thread has the BQL.
LOST = 'WARNING: ThreadSanitizer: unlock of an unlocked mutex'


def environment(log):
    """The variables that make each QEMU write reports to a file log.PID."""
    common = f'log_path={log}:'
    return {
        # Otherwise, GLib's own allocator passes memory from thread to thread,
        # unseen by the sanitizers.
        'G_SLICE': 'always-malloc',
        'ASAN_OPTIONS': common + 'detect_leaks=1:fast_unwind_on_malloc=0',
        'LSAN_OPTIONS': f'suppressions={TOP}/testlib/leak.supp:'
                        'print_suppressions=0',
        'UBSAN_OPTIONS': common + 'halt_on_error=1:print_stacktrace=1',
        # A thread of QEMU holds more locks at a time than the detector of
        # deadlocks supports.
        'TSAN_OPTIONS': common + 'detect_deadlocks=0:atexit_sleep_ms=0:'
                        f'exitcode=0:suppressions={TOP}/testlib/thread.supp',
    }


def reports(log):
    """All reports, without the warning at the start of each run.

    From LOST on, the reports of a process are ignored.
    """
    texts = [path.read_text().partition(LOST)[0].rstrip('=\n')
             for path in log.parent.glob(f'{log.name}.*')]
    return '\n'.join(
        line for text in texts for line in text.splitlines()
        if "ASan doesn't fully support makecontext" not in line)
