# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs that call all the time take turns, with one thread or several."""

import contextlib
import re
import struct
import threading
import time

import pytest

from testlib.bare_metal import source_bytes, word
from testlib.egd import EgdDaemon
from testlib.fifo import Fifo
from testlib.hcalls import COUNT, H_SUCCESS
from testlib.limits import HANG, until
from testlib.machine import URANDOM, statistic

CPUS = 4
THREADS = ['multi', 'single']
TRACE = ['-trace', 'spapr_rng_wait_begin', '-trace', 'spapr_rng_call',
         '-trace', 'spapr_hcall_wait_give_up']


class SlowDaemon(EgdDaemon):
    """A daemon that gives up to 8 bytes each `pause` seconds.

    limit: the number of words that it gives in total
    """

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
    def function(thread, backend, *args, **kwargs):
        # On a busy host, a word may come much too late.
        vm = guest(backend, *TRACE, *args, accel=f'tcg,thread={thread}',
                   cpus=CPUS, timeout=1000 * HANG, **kwargs)
        vm.call(10 ** 6)
        return vm
    return function


def all_call(vm):
    """
    Wait until each vCPU has begun to call.

    Returns the number of words that each vCPU has got by then.
    """
    until(lambda: statistic(vm, 'waits') >= CPUS)
    return [vm.get(cpu, COUNT) for cpu in range(CPUS)]


def finish(machines, count):
    """Wait until each guest has `count` words, and stop it."""
    running = set(machines)

    def stopped():
        for vm in list(running):
            if vm.count() >= count:
                vm.qemu.cmd('stop')
                running.remove(vm)
        return not running

    until(stopped)


def in_turn(log):
    """
    Check that QEMU answered no call before a call that had waited longer.

    QEMU may pass over a call whose vCPU does not run.

    Returns how many calls came when no other call waited, or were passed over.
    On a busy host, where words accumulate, the number of these calls differs
    between vCPUs.
    """
    line, away, free = [], set(), 0
    for event, cpu in re.findall(
            r'^spapr_(?:rng|hcall_wait)_(\w+) cpu (\d+)', log, re.M):
        if event == 'wait_begin':
            free += not line
            line.append(cpu)
        elif event == 'give_up':
            away.add(cpu)
            free += 1
        else:
            waiting = [other for other in line if other not in away]
            assert cpu in away or waiting[:1] in ([], [cpu])
            free += cpu not in line
            line = [other for other in line if other != cpu]
            away.discard(cpu)
    return free


def check(machines, sources, begun):
    """
    Check that the vCPUs got all words of each source once, in equal numbers.

    If words went to the vCPU that asks first, some vCPUs would get half as many
    words as others.

    begun: the results of all_call() for each machine
    """
    results = [[vm.results(cpu) for cpu in range(CPUS)] for vm in machines]
    values = [[[value for status, value in got if status == H_SUCCESS]
               for got in vcpus] for vcpus in results]
    counts = [list(map(len, vcpus)) for vcpus in values]
    failures = [sum(map(len, vcpus)) - sum(words)
                for vcpus, words in zip(results, counts)]
    since = [[n - before for n, before in zip(*both)]
             for both in zip(counts, begun)]
    spreads = [max(words) - min(words) - in_turn(vm.log())
               for vm, words in zip(machines, since)]
    print(f'failures {failures}, words {counts}')
    assert failures == [0] * len(machines)
    assert max(spreads) <= 3
    for vcpus, source in zip(values, sources):
        assert sorted(sum(vcpus, [])) == sorted(source)
        position = {value: i for i, value in enumerate(source)}
        for got in vcpus:
            assert got == sorted(got, key=position.get)


def test_wake_up(guest):
    """
    The vCPU whose turn it is wakes up at once.

    If it waited until another vCPU of its thread had slept, each of the 8000
    turns would take 20 ms.
    """
    vm = guest(URANDOM, accel='tcg,thread=single', cpus=16, timeout=0,
               pool_size=8)
    vm.call(500)
    vm.finish()
    assert statistic(vm, 'bytes') == 8 * 16 * 500


@pytest.mark.parametrize('max_bytes, seconds', [
    (64, 15), (160, 15), (800, 10), (4000, 10)])
def test_quota(start, tmp_path, max_bytes, seconds):
    """The source has exactly the words of the quota in that time."""
    count = max_bytes * seconds // 8
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, count))
    machines = [start(thread, f'rng-random,filename={source}',
                      max_bytes=max_bytes, period=1000)
                for thread in THREADS]
    begun = list(map(all_call, machines))
    finish(machines, count)
    check(machines, [list(map(word, range(count)))] * len(machines), begun)


@pytest.mark.parametrize('rate, seconds', [(10, 15), (50, 10)])
def test_fifo(start, tmp_path, rate, seconds):
    """The words of the source come one by one."""
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
        begun = list(map(all_call, machines))
        due = time.monotonic()
        for i in range(count):
            for fifo in fifos:
                fifo.write(source_bytes(i, i + 1))
            due += 1 / rate
            time.sleep(max(0, due - time.monotonic()))
        finish(machines, count)
        check(machines, [list(map(word, range(count)))] * len(machines), begun)


def test_egd(start, tmp_path):
    """A daemon answers requests for many words word by word."""
    count = 150
    daemons = [SlowDaemon(tmp_path / thread, 0.1, count) for thread in THREADS]
    try:
        for daemon in daemons:
            daemon.start()
        machines = [start(thread, *daemon.backend('reconnect-ms=0'))
                    for thread, daemon in zip(THREADS, daemons)]
        begun = list(map(all_call, machines))
        finish(machines, count)
        check(machines, [struct.unpack(f'>{len(daemon.given) // 8}Q',
                                       daemon.given) for daemon in daemons],
              begun)
    finally:
        for daemon in daemons:
            daemon.stop()
