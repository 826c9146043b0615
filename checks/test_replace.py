# SPDX-License-Identifier: GPL-2.0-or-later
"""Replacing the source of a running guest: qom-set of the property rng."""

import functools
import re
import time
from contextlib import ExitStack, closing

import pytest

from testlib.accels import accels
from testlib.bare_metal import source_bytes, word
from testlib.fifo import Fifo
from testlib.hcalls import H_HARDWARE, H_SUCCESS
from testlib.limits import until
from testlib.machine import DEVICE, add_disk, hmp, set_property, statistic
from testlib.sources import INTERVAL

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


def refused(vm, name):
    answer = vm.qemu.qmp('qom-set', path=DEVICE, property='rng', value=name)
    return answer['error']['desc']


def source_of(vm):
    return statistic(vm, 'rng')


def numbers(vm):
    """
    The indices of the words that the guest got from each source.

    Each vCPU must have got the words of a source in order.
    """
    number = {word(first + i): (name, i)
              for name, first in FIRST.items() for i in range(20000)}
    got = {name: [] for name in FIRST}
    for cpu in range(vm.cpus):
        of_cpu = {name: [] for name in FIRST}
        for value in vm.values(cpu):
            name, i = number[value]
            of_cpu[name].append(i)
        for name, some in of_cpu.items():
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
    """Calls that wait for a dry source get words of the new source."""
    vm = start(cpus=4)
    vm.call()
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


def test_half_a_word(start, sources):
    """The first bytes of an incomplete word are dropped."""
    vm = start('-trace', 'spapr_rng_receive')
    vm.call()
    sources.fifos['a'].write(source_bytes(0, 1)[:5])
    until(lambda: '\nspapr_rng_receive 5 bytes\n' in '\n' + vm.log())
    sources.give('b', 1)
    replace(vm, 'rng1')
    vm.finish()
    assert numbers(vm) == {'a': [], 'b': [0]}
    vm.quit()


@pytest.mark.parametrize('timeout', [0, 300])
def test_after_a_bad_source(guest, sources, timeout):
    """The state of the old source does not affect the new one."""
    vm = guest('rng-random,filename=/dev/zero', *sources.options,
               timeout=timeout, health_test='on')

    def call():
        vm.call()
        vm.finish()

    def got_word():
        return vm.results()[-1] == (H_SUCCESS, word(FIRST['b']))

    start = time.monotonic()
    vm.call()
    until(lambda: 'thrown away' in vm.log())
    if timeout:
        vm.finish()
        assert [status for status, _ in vm.results()] == [H_HARDWARE]
        sources.give('b', 72)
        replace(vm, 'rng1')
        waits = statistic(vm, 'waits')
        call()
        # A call waits for the new source, although earlier calls failed.
        assert got_word() or statistic(vm, 'waits') > waits
        until(lambda: got_word() or call())
    else:
        assert vm.calls_wait()
        sources.give('b', 71)
        replace(vm, 'rng1')
        assert vm.calls_wait() and vm.count() == 0
        sources.give('b', 1)
        vm.finish()
        assert vm.values() == [word(FIRST['b'])]
    # The old source is still bad, which QEMU reports again.
    assert "rng-random 'rng0' is not tested any more" in vm.log()
    replace(vm, 'rng0')
    vm.call(200)
    if timeout:
        vm.finish()
        assert vm.results()[-1][0] == H_HARDWARE
    else:
        until(lambda: vm.log().count('thrown away') == 2)
        assert time.monotonic() - start >= INTERVAL
        assert vm.count() == 72
    vm.quit()


def test_by_a_bad_source(guest, fifo):
    """The health tests test the current source."""
    vm = guest(fifo.backend, '-object', 'rng-random,filename=/dev/zero,id=bad',
               timeout=0, health_test='on')
    fifo.write(source_bytes(0, 2000))
    vm.call(100)
    vm.finish()
    replace(vm, 'bad')
    vm.call(900)
    until(lambda: 'thrown away' in vm.log())
    assert vm.calls_wait()
    assert vm.reports()[0].startswith("rng-random 'bad': ")
    replace(vm, 'rng0')
    vm.finish()
    assert vm.values() == [word(i) for i in range(1000)]


def test_full_pool(start, sources):
    """
    The old source fills the pool while the machine is stopped.

    The guest first gets all words of the pool.
    """
    vm = start('-trace', 'spapr_rng_receive', pool_size=4096)

    def received():
        return re.findall(r'^spapr_rng_receive (\d+) ', vm.log(),
                          re.MULTILINE)

    full = False
    while not full:
        sources.give('a', 3000)     # With more calls, requests grow.
        vm.call(3512)
        until(lambda: vm.count() == sources.given['a'])
        assert vm.calls_wait()
        vm.qemu.cmd('stop')
        before = len(received())
        sources.give('a', 512)
        until(lambda: len(received()) > before)
        full = received()[-1] == '4096'
        if full:
            replace(vm, 'rng1')
            sources.give('b', 512)
        vm.qemu.cmd('cont')
        vm.finish()
    assert numbers(vm) == {'a': list(range(sources.given['a'])), 'b': []}


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
    assert source_of(vm) == '/objects/rng1' and vm.values() == before[:1]
    vm.call(1000)
    vm.finish()
    got = numbers(vm)
    assert got['a'] == [0] and len(got['b']) == 1000
    assert not set(vm.values()[1:]) & set(before)
    vm.quit()


def test_refused(start, sources):
    """QEMU refuses bad values with a reason, and keeps the source."""
    vm = start()
    vm.qemu.cmd('object-add', **{'qom-type': 'iothread', 'id': 'thread'})
    for name, why in {
            '': 'spapr-rng cannot do without a backend',
            'thread': "Invalid parameter type for 'rng', expected: "
                      'rng-backend',
            'nothing': "Device 'nothing' not found"}.items():
        assert refused(vm, name) == why
        assert source_of(vm) == '/objects/rng0'
    sources.give('a', 2)
    vm.call(2)
    vm.finish()
    assert numbers(vm) == {'a': [0, 1], 'b': []}


def test_object_del(start, sources):
    """A backend that was replaced can be deleted, and a new one added."""
    vm = start()
    vm.call()
    assert vm.calls_wait()
    for old, new in ('rng0', 'rng1'), ('rng1', 'rng2'):
        answer = vm.qemu.qmp('object-del', id=old)
        assert 'in use' in answer['error']['desc']
        if new == 'rng2':
            vm.qemu.cmd('object-add', **{'qom-type': 'rng-builtin', 'id': new})
        replace(vm, new)
        vm.qemu.cmd('object-del', id=old)
        assert source_of(vm) == f'/objects/{new}'
    vm.finish()
    vm.call(1000)
    vm.finish()
    assert len(set(vm.values())) == 1001
    vm.quit()


def test_record_and_replay(start, sources, tmp_path):
    """Under record and replay, QEMU refuses to replace the source."""
    sources.give('a', 100)
    for mode in 'record', 'replay':
        vm = start('-S', '-icount',
                   f'shift=auto,rr={mode},rrfile={tmp_path / "log"}')
        vm.call(100)
        assert refused(vm, 'rng1') == \
            "a replay does not know when 'rng' was replaced"
        replace(vm, 'rng0')     # The current value is accepted.
        assert source_of(vm) == '/objects/rng0'
        vm.qemu.cmd('cont')
        vm.finish()
        if mode == 'record':
            vm.quit()
        assert numbers(vm) == {'a': list(range(100)), 'b': []}
