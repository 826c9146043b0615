# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixtures that checks share."""

import contextlib
import functools
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testlib import (GUESTS, KERNELS, KIND, OUT, TOP,  # noqa: E402
                     bare_metal, slow_source)
from testlib.fifo import Fifo  # noqa: E402
from testlib.install import PREFIX, install  # noqa: E402
from testlib.limits import HANG  # noqa: E402
from testlib.machine import machine  # noqa: E402


def pytest_configure(config):
    """Leave out slow checks unless -m asks for them.

    Forget the repository of a git hook: checks use others.
    """
    for name in 'GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE':
        os.environ.pop(name, None)
    config.addinivalue_line('markers', 'debian: boots a whole Debian')
    config.option.markexpr = config.option.markexpr or 'not debian'


def pytest_terminal_summary(terminalreporter):
    """The last line shows it if there is no newer Linux, for example."""
    version = (OUT / 'qemu/VERSION').read_text().strip()
    linux = [path.read_text().strip() for path in (
        GUESTS / f'linux-{kernel}/version' for kernel in KERNELS)
        if path.exists()]
    terminalreporter.section(
        ', '.join([f'QEMU {version}', *linux, str(OUT / KIND)]))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """In CI, report a skipped check as failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get('CI'):
        report.outcome = 'failed'
        report.longrepr = f'cannot run here: {report.longrepr[2]}'


@pytest.fixture(autouse=True)
def nothing_reported(tmp_path, monkeypatch):
    """Check that the sanitizers of a test's QEMUs report nothing."""
    log = f'log_path={tmp_path}/sanitizer:'
    suppressions = f'suppressions={TOP}/testlib'
    # Otherwise, GLib's own allocator passes memory from thread to thread,
    # unseen by the sanitizers.
    monkeypatch.setenv('G_SLICE', 'always-malloc')
    monkeypatch.setenv('ASAN_OPTIONS', log +
                       'detect_leaks=1:fast_unwind_on_malloc=0')
    monkeypatch.setenv('LSAN_OPTIONS', f'{suppressions}/leak.supp:'
                       'print_suppressions=0')
    monkeypatch.setenv('UBSAN_OPTIONS', log +
                       'halt_on_error=1:print_stacktrace=1')
    # A thread of QEMU holds more locks at a time than the detector of
    # deadlocks supports.
    monkeypatch.setenv('TSAN_OPTIONS', log + 'detect_deadlocks=0:'
                       'atexit_sleep_ms=0:exitcode=0:'
                       f'{suppressions}/thread.supp')
    yield
    reports = []
    for path in tmp_path.glob('sanitizer.*'):
        # For an incoming migration, QEMU unlocks the BQL in a coroutine. The
        # thread sanitizer takes the coroutine for another thread, and from
        # then on does not know which thread has the BQL.
        text = path.read_text().partition(
            'WARNING: ThreadSanitizer: unlock of an unlocked mutex')[0]
        # A warning that comes at the start of each run
        reports += [line for line in text.rstrip('=\n').splitlines()
                    if "ASan doesn't fully support makecontext" not in line]
    assert reports == []


@pytest.fixture
def out():
    """The directory of the builds of the tested QEMU."""
    return OUT


@pytest.fixture(scope='session')
def installed(tmp_path_factory):
    """The directory below which "make install" has installed QEMU."""
    root = tmp_path_factory.mktemp('installed')
    done = install('add', root)
    assert done.returncode == 0, done.stderr
    return root / PREFIX[1:]


@pytest.fixture
def tree():
    """The assembled git tree of QEMU."""
    return OUT / 'qemu'


@pytest.fixture
def pseries(tmp_path):
    """A function that makes a pseries machine, which ends with the test."""
    machines = []

    def make(*args, **kwargs):
        machines.append(machine(tmp_path, *args, **kwargs))
        return machines[-1]

    yield make
    for qemu in machines:
        # The sanitizers report leaks only if QEMU is not killed.
        qemu.shutdown(hard=KIND == 'native', timeout=HANG)


@pytest.fixture(scope='session')
def image(tmp_path_factory):
    """The image of the bare-metal guest."""
    return bare_metal.build(tmp_path_factory.mktemp('bare-metal'))


@pytest.fixture
def guest(pseries, image, tmp_path):
    """A function that starts a machine with the bare-metal guest.

    Without health tests by default: a source that is tested has to give 72
    words before the guest gets one.
    """
    return functools.partial(bare_metal.Guest, pseries, image, tmp_path,
                             health_test='off')


@pytest.fixture
def fifo(tmp_path):
    with contextlib.closing(Fifo(tmp_path)) as source:
        yield source


@pytest.fixture(scope='session')
def failing_read(tmp_path_factory):
    """The library that makes reads slow, or fail."""
    return slow_source.build(tmp_path_factory.mktemp('failing-read'))


@pytest.fixture
def slow_guest(failing_read, guest, tmp_path):
    """A function that starts a guest on a SlowSource; it returns both."""
    def start(*args, **kwargs):
        slow = slow_source.SlowSource(tmp_path, failing_read, *args, **kwargs)
        return slow, guest(slow.backend, wrapper=slow.wrapper, timeout=0)
    return start
