# SPDX-License-Identifier: GPL-2.0-or-later
"""What all checks share: where things are, and a machine to start."""

import contextlib
import functools
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import bare_metal
import sanitizers
from bare_metal import HANG, ioctl_int

TOP = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get('OUT', TOP / 'build')).resolve()

# Of the build with all features
PREFIX = os.environ.get('PREFIX', '/usr/local')

# The build of QEMU that guests run on, of scripts/build-qemu's; '' for native
KIND = os.environ.get('KIND', '')

# QEMU's own packages, of the tree that is tested.
sys.path.insert(0, str(OUT / 'qemu/python'))

from qemu.machine import QEMUMachine  # noqa: E402

# What Linux guests there are; a newer one than these two is not on each mirror.
GUESTS = TOP / 'build/guests'
KERNELS = ['6.1', '6.12'] + \
    ['newest'] * (GUESTS / 'linux-newest/version').exists()


def tested():
    version = (OUT / 'qemu/VERSION').read_text().strip()
    linux = [path.read_text().strip() for path in (
        GUESTS / f'linux-{kernel}/version' for kernel in KERNELS)
        if path.exists()]
    return ', '.join([f'QEMU {version}', *linux, str(OUT / KIND)])


def pytest_report_header():
    return f'tested: {tested()}'


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section(tested())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """In CI, a check that cannot run is one that failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get('CI'):
        report.outcome = 'failed'
        report.longrepr = f'cannot run here: {report.longrepr[2]}'


@pytest.fixture(autouse=True)
def nothing_reported(tmp_path, monkeypatch):
    """No QEMU that a test starts has a report of its sanitizers."""
    log = tmp_path / 'sanitizer'
    for name, value in sanitizers.environment(log).items():
        monkeypatch.setenv(name, value)
    yield
    assert sanitizers.reports(log) == ''


@pytest.fixture
def top():
    """This repository."""
    return TOP


@pytest.fixture
def out():
    """Where the tested QEMU was built."""
    return OUT


def install(job, root):
    """Add below root the QEMU of "make install", or remove it from there."""
    return subprocess.run(
        [TOP / 'scripts/install', OUT, job], text=True, check=False,
        capture_output=True, env=dict(os.environ, DESTDIR=str(root),
                                      PREFIX=PREFIX))


@pytest.fixture(scope='session')
def installed(tmp_path_factory):
    """The prefix below which "make install" has put QEMU."""
    root = tmp_path_factory.mktemp('installed')
    done = install('add', root)
    assert done.returncode == 0, done.stderr
    return root / PREFIX[1:]


@pytest.fixture
def tree():
    """The assembled git tree of QEMU."""
    return OUT / 'qemu'


class Machine(QEMUMachine):
    """One whose monitor has to answer; its `qmp_timer` is for the greeting."""

    def launch(self):
        super().launch()
        self._qmp.settimeout(HANG)


def machine(directory, *args, accel='tcg', build=OUT / KIND,
            firmware='/usr/share/qemu', **kwargs):
    """
    A pseries machine under TCG; not yet launched.

    firmware: the directory, None for that of an installed QEMU
    """
    vm = Machine(str(build / 'qemu-system-ppc64'),
                 base_temp_dir=directory, log_dir=directory,
                 qmp_timer=HANG, **kwargs)
    # The capabilities are those that TCG lacks, each a warning otherwise.
    vm.add_args(*(['-L', firmware] if firmware else []), '-nodefaults',
                '-accel', accel, '-machine',
                'pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,'
                'cap-ccf-assist=off', *args)
    return vm


@pytest.fixture
def pseries(tmp_path):
    """A function that makes such a machine, and ends it with the test."""
    machines = []

    def make(*args, **kwargs):
        vm = machine(tmp_path, *args, **kwargs)
        machines.append(vm)
        return vm

    yield make
    for vm in machines:
        # Leaks are told at the end of a QEMU that is not killed.
        vm.shutdown(hard=not KIND, timeout=HANG)


@pytest.fixture(scope='session')
def image(tmp_path_factory):
    """The bare-metal guest."""
    return bare_metal.build(TOP / 'guests/bare-metal/hcalls.S',
                            tmp_path_factory.mktemp('bare-metal'))


@pytest.fixture
def guest(pseries, image, tmp_path):
    """A function that starts a machine with that guest."""
    return functools.partial(bare_metal.Guest, pseries, image, tmp_path)


class Fifo:
    """A source that gives what is written to it, and only that."""

    def __init__(self, directory):
        path = directory / 'fifo'
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)
        self.backend = f'rng-random,filename={path}'

    def write(self, data):
        os.write(self._fd, data)

    def unread(self):
        """How many bytes nobody has read yet."""
        return ioctl_int(self._fd, termios.FIONREAD)

    def close(self):
        os.close(self._fd)


@pytest.fixture
def fifo(tmp_path):
    with contextlib.closing(Fifo(tmp_path)) as source:
        yield source
