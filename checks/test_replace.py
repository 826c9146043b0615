# SPDX-License-Identifier: GPL-2.0-or-later
"""Replacing the source of a running guest: qom-set of the property rng."""

import functools
import time
from contextlib import ExitStack, closing

import pytest

from testlib.accels import accels
from testlib.bare_metal import source_bytes, word
from testlib.fifo import Fifo
from testlib.hcalls import H_HARDWARE
from testlib.limits import until
from testlib.machine import DEVICE, add_disk, hmp, set_property, statistic
from testlib.sources import state

FIRST = {'a': 0, 'b': 10 ** 6}      # the number of each source's first word


class Sources:
    """Two FIFOs, a and b, with different words. The guest starts with a."""

    def __init__(self, directory, stack):
        self.fifos = {}
        self.given = dict.fromkeys(FIRST, 0)
        for name in FIRST:
            (directory / name).mkdir()
            self.fifos[name] = stack.enter_context(
                closing(Fifo(directory / name)))
        self.backend = self.fifos['a'].backend
        self.options = ['-object', self.fifos['b'].backend + ',id=rng1']

    def give(self, name, words):
        first = FIRST[name] + self.given[name]
        self.fifos[name].write(source_bytes(first, first + words))
        self.given[name] += words


@pytest.fixture
def sources(tmp_path):
    with ExitStack() as stack:
        yield Sources(tmp_path, stack)


@pytest.fixture
def start(guest, sources):
    return functools.partial(guest, sources.backend, *sources.options,
                             timeout=0)


def replace(vm, name):
    set_property(vm, 'rng', name)


def numbers(vm):
    """
    The indices of the words that the guest got from each source.

    Each vCPU must have got the words of a source in order.
    """
    number = {word(first + i): (name, i)
              for name, first in FIRST.items() for i in range(20000)}
    got = {name: [] for name in FIRST}
    for cpu in range(vm.cpus):
        words = [number[value] for value in vm.values(cpu)]
        for name in FIRST:
            some = [i for source, i in words if source == name]
            assert some == sorted(some)
            got[name] += some
    return {name: sorted(some) for name, some in got.items()}


@accels('multi', 'single')
@pytest.mark.parametrize('pool_size', [8, 4096])
def test_while_vcpus_call(start, sources, way, pool_size):
    """
    Replace the source many times: the guest gets each word once.

    No word is lost, and no word is made of halves of two words.
    """
    vm = start(**way, pool_size=pool_size)
    calls = 12000 // vm.cpus
    vm.call(calls)

    def feed():
        for name, fifo in sources.fifos.items():
            if fifo.unread() < 4096:
                sources.give(name, 500)
        return all(map(vm.done, range(vm.cpus)))

    rounds = 0
    while not feed():
        replace(vm, ['rng1', 'rng0'][rounds % 2])
        rounds += 1
        # The guest first gets the words of the old source from the pool.
        enough = vm.count() + pool_size // 8 + 1
        until(lambda least=enough: feed() or vm.count() >= least)
    vm.finish()
    assert rounds > 3
    got = numbers(vm)
    for some in got.values():
        assert some == list(range(len(some)))
        assert len(some) > 500
    assert sum(map(len, got.values())) == calls * vm.cpus
    assert vm.log() == ''


def test_while_calls_wait(start, sources):
    """
    Calls that wait for a dry source get words of the new source.

    The first bytes of an incomplete word are dropped.
    """
    vm = start('-trace', 'spapr_rng_receive', cpus=4)
    vm.call()
    sources.fifos['a'].write(source_bytes(0, 1)[:5])
    until(lambda: '\nspapr_rng_receive 5 bytes\n' in '\n' + vm.log())
    assert vm.calls_wait()
    sources.give('b', vm.cpus)
    replace(vm, 'rng1')
    vm.finish()
    assert numbers(vm) == {'a': [], 'b': list(range(vm.cpus))}
    # Words of the old source stay there until it is the source again.
    sources.give('a', 2 * vm.cpus)
    time.sleep(0.1)
    replace(vm, 'rng0')
    vm.call(2)
    vm.finish()
    assert numbers(vm) == {'a': list(range(2 * vm.cpus)),
                           'b': list(range(vm.cpus))}


def test_after_a_bad_source(guest, sources):
    """The state of the old source does not affect the new one."""
    vm = guest('rng-random,filename=/dev/zero', *sources.options, timeout=300,
               health_test='on')

    def fails():
        vm.call()
        vm.finish()
        return vm.results()[-1][0] == H_HARDWARE

    assert fails()
    until(lambda: state(vm) == 'bad')
    # A call waits for the new source, although earlier calls failed.
    waits = statistic(vm, 'waits')
    replace(vm, 'rng1')
    assert fails() and statistic(vm, 'waits') > waits
    assert "rng-random 'rng0' is not tested any more" in vm.log()
    sources.give('b', 71)
    assert fails()
    sources.give('b', 1)
    vm.call_until_success()
    assert vm.results()[-1][1] == word(FIRST['b'])
    # The old source is still bad.
    replace(vm, 'rng0')
    vm.call(200)
    vm.finish()
    until(lambda: state(vm) == 'bad')
    assert statistic(vm, 'bytes') == 72 * 8
    vm.quit()


def test_snapshot(start, sources, tmp_path):
    """After loadvm, the new source is still the source."""
    vm = start()
    add_disk(vm.qemu, tmp_path)
    sources.give('a', 1)
    sources.give('b', 4000)
    vm.call()
    vm.finish()
    replace(vm, 'rng1')
    hmp(vm.qemu, 'savevm middle')
    vm.call(10)
    vm.finish()
    before = vm.values()
    hmp(vm.qemu, 'loadvm middle')
    assert vm.values() == before[:1]
    vm.call(1000)
    vm.finish()
    got = numbers(vm)
    assert got['a'] == [0] and len(got['b']) == 1000
    assert not set(vm.values()[1:]) & set(before)
    vm.quit()


@pytest.mark.parametrize('name, why, args', [
    ('', 'spapr-rng cannot do without a backend', []),
    ('thread', "Invalid parameter type for 'rng', expected: rng-backend",
     ['-object', 'iothread,id=thread']),
    ('nothing', "Device 'nothing' not found", []),
    ('rng1', "a replay does not know when 'rng' was replaced",
     ['-icount', 'shift=auto,rr=record,rrfile=/dev/null'])])
def test_refused(start, sources, name, why, args):
    """QEMU refuses bad values with a reason, and keeps the source."""
    vm = start(*args)
    answer = vm.qemu.qmp('qom-set', path=DEVICE, property='rng', value=name)
    assert answer['error']['desc'] == why
    replace(vm, 'rng0')     # The current value is accepted.
    assert statistic(vm, 'rng') == '/objects/rng0'
    sources.give('a', 2)
    vm.call(2)
    vm.finish()
    assert numbers(vm) == {'a': [0, 1], 'b': []}
