# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines that are measured, and where they get random numbers from."""

import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / 'checks'))

# pylint: disable=wrong-import-position
import bare_metal  # noqa: E402
from conftest import OUT, machine  # noqa: E402
from egd import EgdDaemon  # noqa: E402
from linux_guest import linux_args  # noqa: E402
from results import Failure  # noqa: E402
from slow_source import SlowSource  # noqa: E402

QEMUS = {'ours': OUT / 'obj', 'peer': OUT / 'peer/obj'}
SOURCES = ('rng-random', 'rng-builtin', 'rng-egd')
DEVICES = ('spapr-rng', 'virtio-rng-pci')


class Hangs(Exception):
    """A guest does not go on."""


def wait_for(condition, seconds):
    """Raises Hangs if that takes longer."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise Hangs
        time.sleep(0.001)


def _serve(path, ready):
    EgdDaemon(path).start()
    ready.set()
    signal.pause()


@contextmanager
def egd_daemon():
    """A socket's path. A process: one must not wait for another's Python."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / 'egd'
        ready = multiprocessing.Event()
        daemon = multiprocessing.Process(target=_serve, args=(path, ready),
                                         daemon=True)
        daemon.start()
        try:
            ready.wait()
            yield path
        finally:
            daemon.kill()
            daemon.join()


@contextmanager
def backend(source):
    """The -object for that source, without its id, and more arguments."""
    if source == 'rng-egd':
        with egd_daemon() as path:
            yield 'rng-egd,chardev=egd', [
                '-chardev', f'socket,id=egd,path={path},reconnect-ms=100']
    else:
        yield {'rng-random': 'rng-random,filename=/dev/urandom',
               'rng-builtin': 'rng-builtin'}[source], []


@contextmanager
def guest(directory, image, qemu, *args, **kwargs):
    """The bare-metal guest, a bare_metal.Guest."""
    def make(*args, **kwargs):
        return machine(directory, *args, build=QEMUS[qemu], **kwargs)

    vm = bare_metal.Guest(make, image, Path(directory), *args, **kwargs)
    try:
        yield vm
    finally:
        vm.vm.shutdown(hard=True)


@contextmanager
def bare(image, qemu, source, cpus, pool):
    """That guest, on one of SOURCES."""
    with (tempfile.TemporaryDirectory() as directory,
          backend(source) as (rng, args),
          guest(directory, image, qemu, rng, *args, cpus=cpus,
                device=f',pool-size={pool}' if pool else '') as vm):
        yield vm


@contextmanager
def slow(image, library, qemu, chunk, ms):
    """That guest and its source, which takes as long for each chunk."""
    with tempfile.TemporaryDirectory() as directory:
        source = SlowSource(directory, library, chunk, ms)
        with guest(directory, image, qemu, source.backend,
                   wrapper=source.wrapper) as vm:
            yield vm, source


class Linux:
    """A Linux guest that runs a job, with a program in its root directory."""

    def __init__(self, directory, qemu, args, job, program):
        self._console = directory / 'console'
        if program:
            shutil.copy(program, directory)
        self.vm = machine(
            directory,
            *linux_args(TOP, '6.1', directory, job,
                        programs=[program.name] if program else []),
            '-chardev', f'file,id=console,path={self._console}',
            '-serial', 'chardev:console', *args, build=QEMUS[qemu])
        self._start = time.monotonic()
        self.vm.launch()

    def lines(self):
        """What the guest has said so far."""
        text = self._console.read_text(errors='replace')
        return text.replace('\r', '').split('\n')[:-1]

    def wait_for_line(self, start, seconds):
        """Returns how long it took since the start of QEMU."""
        wait_for(lambda: any(line.startswith(start) for line in self.lines()),
                 self._start + seconds - time.monotonic())
        return time.monotonic() - self._start


@contextmanager
def linux(qemu, args, job='', program=None):
    """Such a guest; ends with the block."""
    with tempfile.TemporaryDirectory() as directory:
        guest = Linux(Path(directory), qemu, args, job, program)
        try:
            yield guest
        finally:
            guest.vm.shutdown(hard=True)
