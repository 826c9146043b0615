# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines that are measured, and their backends and sources."""

import functools
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from sources import egd
from testlib import OUT
from testlib.bare_metal import Guest
from testlib.linux import Console, linux_args
from testlib.machine import machine
from testlib.slow_source import SlowSource

QEMUS = {'ours': OUT / 'native', 'peer': OUT / 'peer/native'}
SOURCES = ('rng-random', 'rng-builtin', 'rng-egd')
DEVICES = ('spapr-rng', 'virtio-rng-pci')


class Hangs(Exception):
    """A guest makes no progress."""


def wait_for(condition, seconds):
    """Wait until the condition is true; raise Hangs after so many seconds."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise Hangs
        time.sleep(0.001)


@contextmanager
def backend(source):
    """The -object of a source of SOURCES, without its id, and its -chardev."""
    if source == 'rng-egd':
        with tempfile.TemporaryDirectory() as directory, \
                egd(Path(directory)) as (_, args):
            yield 'rng-egd,chardev=egd', args
    else:
        yield {'rng-random': 'rng-random,filename=/dev/urandom',
               'rng-builtin': 'rng-builtin'}[source], []


@contextmanager
def guest(directory, image, qemu, *args, **kwargs):
    """A bare_metal.Guest on a QEMU of QEMUS."""
    vm = Guest(functools.partial(machine, directory), image, Path(directory),
               *args, build=QEMUS[qemu], **kwargs)
    try:
        yield vm
    finally:
        vm.qemu.shutdown(hard=True)


@contextmanager
def bare(image, qemu, source, cpus, pool):
    """The bare-metal guest with a source of SOURCES."""
    properties = {'pool_size': pool} if pool else {}
    with (tempfile.TemporaryDirectory() as directory,
          backend(source) as (rng, args),
          guest(directory, image, qemu, rng, *args, cpus=cpus,
                **properties) as vm):
        yield vm


@contextmanager
def slow(image, library, qemu, chunk, ms):
    """The bare-metal guest with a SlowSource; yields both."""
    with tempfile.TemporaryDirectory() as directory:
        source = SlowSource(directory, library, chunk, ms)
        # The test of the first words would take longer than the measurement.
        options = {'health_test': 'off'} if qemu == 'ours' else {}
        with guest(directory, image, qemu, source.backend,
                   wrapper=source.wrapper, **options) as vm:
            yield vm, source


class Linux(Console):
    """A Linux guest that runs a job, with the time since its start."""

    def __init__(self, qemu):
        self._start = time.monotonic()
        super().__init__(qemu, quiet=True)

    def wait_for_line(self, start, seconds):
        """Wait for a line; return the seconds since the start of QEMU."""
        try:
            self.lines_until(start, self._start + seconds - time.monotonic())
        except AssertionError:
            raise Hangs from None
        return time.monotonic() - self._start


@contextmanager
def linux(qemu, args, job='', program=None):
    """A Linux guest for the time of the block.

    program: the path of a program that is copied to the guest's root directory
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        programs = []
        if program:
            shutil.copy(program, directory)
            programs = [program.name]
        guest = Linux(machine(
            directory, *linux_args('6.1', directory, job, programs), *args,
            build=QEMUS[qemu]))
        try:
            yield guest
        finally:
            guest.qemu.shutdown(hard=True)
