# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs that call all the time take turns, however they are run."""

import contextlib
import struct
import threading
import time

import pytest

from bare_metal import H_SUCCESS, source_bytes, until, word
from conftest import Fifo
from egd import EgdDaemon

CPUS = 4
THREADS = ['multi', 'single']


class SlowDaemon(EgdDaemon):
    """Gives 8 bytes or less each `pause` seconds, and `limit` words in all."""

    def __init__(self, path, pause, limit):
        super().__init__(path)
        self._pause = pause
        self._left_bytes = 8 * limit
        self._over = threading.Event()

    def stop(self):
        self._over.set()
        super().stop()

    def _give(self, connection, size):
        while size:
            part = min(size, 8, self._left_bytes)
            if not part:
                self._over.wait()
                return False
            time.sleep(self._pause)
            if not super()._give(connection, part):
                return False
            size -= part
            self._left_bytes -= part
        return True


@pytest.fixture
def start(guest):
    """A function that starts a guest whose vCPUs call all the time."""
    def function(thread, backend, *args, device=''):
        vm = guest(backend, *args, accel=f'tcg,thread={thread}', cpus=CPUS,
                   device=device)
        vm.call(10 ** 6)
        return vm
    return function


def finish(machines, count, seconds):
    """Wait for the last words; stop each guest before calls fail."""
    running = set(machines)

    def stopped():
        for vm in list(running):
            if vm.count() >= count:
                vm.vm.cmd('stop')
                running.remove(vm)
        return not running

    until(stopped, seconds)


def check(machines, sources, slack=3):
    """
    All words of each source were given out, once, as many to each vCPU.

    Where words go to who comes first, some vCPUs get half as many as others,
    and their calls fail although enough words came for them.
    """
    results = [[vm.results(cpu) for cpu in range(CPUS)] for vm in machines]
    values = [[[value for status, value in got if status == H_SUCCESS]
               for got in vcpus] for vcpus in results]
    counts = [list(map(len, vcpus)) for vcpus in values]
    failures = [sum(map(len, vcpus)) - sum(words)
                for vcpus, words in zip(results, counts)]
    spreads = [max(words) - min(words) for words in counts]
    print(f'failures {failures}, words {counts}')
    assert failures == [0] * len(machines)
    assert max(spreads) <= slack
    for vcpus, source in zip(values, sources):
        assert sorted(sum(vcpus, [])) == sorted(source)
        position = {value: i for i, value in enumerate(source)}
        for got in vcpus:
            assert got == sorted(got, key=position.get)


@pytest.mark.parametrize('max_bytes, seconds, slack', [
    (64, 15, 3), (160, 15, 3), (800, 10, 3),
    # A vCPU may not come back from a call for some words' time.
    (4000, 10, 16),
])
def test_quota(start, tmp_path, max_bytes, seconds, slack):
    """The source has just as many words as the guest may have in the time."""
    count = max_bytes * seconds // 8
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, count))
    machines = [start(thread, f'rng-random,filename={source}',
                      device=f',max-bytes={max_bytes},period=1000')
                for thread in THREADS]
    finish(machines, count, 4 * seconds)
    check(machines, [list(map(word, range(count)))] * len(machines), slack)


@pytest.mark.parametrize('rate, seconds', [(10, 15), (50, 10)])
def test_fifo(start, tmp_path, rate, seconds):
    """Words come one by one."""
    count = rate * seconds
    with contextlib.ExitStack() as stack:
        machines = []
        fifos = []
        for thread in THREADS:
            directory = tmp_path / thread
            directory.mkdir()
            fifo = stack.enter_context(contextlib.closing(Fifo(directory)))
            machines.append(start(thread, fifo.backend))
            fifos.append(fifo)
        due = time.monotonic()
        for i in range(count):
            for fifo in fifos:
                fifo.write(source_bytes(i, i + 1))
            due += 1 / rate
            time.sleep(max(0, due - time.monotonic()))
        finish(machines, count, seconds)
        check(machines, [list(map(word, range(count)))] * len(machines))


def test_egd(start, tmp_path):
    """A request is for more than the word that comes."""
    count = 150
    daemons = [SlowDaemon(tmp_path / thread, 0.1, count) for thread in THREADS]
    try:
        for daemon in daemons:
            daemon.start()
        machines = [start(thread, 'rng-egd,chardev=egd', '-chardev',
                          f'socket,id=egd,path={daemon.path}')
                    for thread, daemon in zip(THREADS, daemons)]
        finish(machines, count, 60)
        check(machines, [struct.unpack(f'>{len(daemon.given) // 8}Q',
                                       daemon.given) for daemon in daemons])
    finally:
        for daemon in daemons:
            daemon.stop()
