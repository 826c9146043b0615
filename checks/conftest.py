# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixtures that checks share."""

import contextlib
import functools
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testlib import (GUESTS, KERNELS, KIND, OUT, bare_metal,  # noqa: E402
                     sanitizers, slow_source)
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
    log = tmp_path / 'sanitizer'
    for name, value in sanitizers.environment(log).items():
        monkeypatch.setenv(name, value)
    yield
    assert sanitizers.reports(log) == ''


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


@pytest.fixture
def slow_guest(guest, tmp_path):
    """A function that starts a guest on a SlowSource; it returns both."""
    def start(*args, **kwargs):
        slow = slow_source.SlowSource(
            tmp_path, slow_source.build(tmp_path), *args, **kwargs)
        return slow, guest(slow.backend, wrapper=slow.wrapper, timeout=0)
    return start
