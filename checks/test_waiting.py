# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose calls wait for a source that gives nothing yet."""

import os
import random
import signal
import time

import pytest

from bare_metal import (H_FUNCTION, H_HARDWARE, H_NOBODYS, H_SUCCESS, LEAVE,
                        TICKS, add_disk, hmp, source_bytes, statistic, until,
                        within, word)

# How QEMU runs its vCPUs decides who waits for whom.
WAYS = {
    'one': {'accel': 'tcg', 'cpus': 1},
    'multi': {'accel': 'tcg,thread=multi', 'cpus': 4},
    'single': {'accel': 'tcg,thread=single', 'cpus': 4},
    'icount': {'accel': 'tcg', 'cpus': 1,
               'options': ['-icount', 'shift=auto']},
    'icount-4': {'accel': 'tcg', 'cpus': 4,
                 'options': ['-icount', 'shift=auto']},
}


def ways(*names):
    return pytest.mark.parametrize('way', [WAYS[name] for name in names],
                                   ids=names)


every_way = ways(*WAYS)


@pytest.fixture
def start(guest, fifo):
    """A function that starts a guest on the FIFO."""
    def function(way, *args, device=',timeout=0', **kwargs):
        return guest(fifo.backend, *way.get('options', []), *args,
                     accel=way['accel'], cpus=way['cpus'], device=device,
                     **kwargs)
    return function


@pytest.fixture
def waiting(start):
    """The same; each of its vCPUs waits in its first call."""
    def function(way, *args, **kwargs):
        vm = start(way, *args, **kwargs)
        vm.call()
        assert vm.calls_wait()
        return vm
    return function


def still_waits(vm):
    time.sleep(0.05)
    return vm.calls_wait() and vm.count() == 0


def give(vm, fifo):
    """Write a word for each vCPU; it has to complete the one call of each."""
    assert still_waits(vm)
    fifo.write(source_bytes(0, vm.cpus))
    vm.finish()
    assert sorted(vm.values(cpu) for cpu in range(vm.cpus)) == \
        sorted([word(cpu)] for cpu in range(vm.cpus))


@every_way
def test_stop_and_cont(waiting, fifo, way):
    vm = waiting(way)
    with within(1):
        vm.vm.cmd('stop')
    with within(1):
        vm.vm.cmd('cont')
    give(vm, fifo)


@every_way
def test_bytes_while_stopped(waiting, fifo, way):
    vm = waiting(way)
    with within(1):
        vm.vm.cmd('stop')
    fifo.write(source_bytes(0, vm.cpus))
    assert still_waits(vm)
    with within(1):
        vm.vm.cmd('cont')
    vm.finish(1)
    assert vm.count() == vm.cpus


@every_way
def test_reset(waiting, fifo, way):
    """The program starts anew and makes the call again."""
    vm = waiting(way)
    with within(1):
        vm.vm.cmd('system_reset')
        vm.vm.event_wait('RESET')
    give(vm, fifo)


@every_way
def test_snapshot(start, fifo, way, tmp_path):
    """A call waits in the guest that loadvm brings back, too."""
    vm = start(way)
    add_disk(vm.vm, tmp_path)
    # These go through all memory, the first one slowest: not within 1 s
    # where the machine is busy with other things.
    hmp(vm.vm, 'savevm idle')
    vm.call()
    assert vm.calls_wait()
    with within(5):
        hmp(vm.vm, 'savevm saved')
    assert still_waits(vm)
    # What is here now is not in the snapshot.
    fifo.write(source_bytes(100, 100 + vm.cpus))
    vm.finish()
    assert vm.count() == vm.cpus
    with within(5):
        hmp(vm.vm, 'loadvm saved')
    give(vm, fifo)


@every_way
def test_migration(waiting, start, fifo, way, tmp_path):
    """It also waits on the other side, and there only if that is wanted."""
    vm = waiting(way)
    path = tmp_path / 'state'
    with within(1):
        vm.save(path)
    vm.quit()
    assert vm.count() == 0
    vm = start(way, '-incoming', 'defer', ram=vm.ram)
    with within(1):
        vm.restore(path)
    give(vm, fifo)


@every_way
def test_failed_migration(waiting, fifo, way, tmp_path):
    """A guest that goes on here, after it was saved, goes on waiting."""
    vm = waiting(way)
    with within(1):
        vm.save(tmp_path / 'state')
    with within(1):
        vm.vm.cmd('cont')
    give(vm, fifo)


@every_way
def test_quit(waiting, way):
    waiting(way).quit()


@every_way
def test_sigterm(waiting, way):
    vm = waiting(way)
    with within(1):
        os.kill(vm.vm.get_pid(), signal.SIGTERM)
        vm.vm.wait()
    assert vm.vm.exitcode() == 0


@every_way
def test_interrupts(waiting, fifo, way):
    """Each vCPU takes its decrementer interrupts while it waits."""
    vm = waiting(way, interrupts=True)
    for cpu in range(vm.cpus):
        before = vm.get(cpu, TICKS)
        until(lambda: vm.get(cpu, TICKS) >= before + 20, 5)
    give(vm, fifo)


@ways('multi', 'single')
def test_interrupts_are_prompt(waiting, way):
    """One vCPU's sleep does not delay what another one has to do."""
    vm = waiting(way, interrupts=True)

    def ticks():
        before = [vm.get(cpu, TICKS) for cpu in range(vm.cpus)]
        time.sleep(0.5)
        return min(vm.get(cpu, TICKS) - before[cpu] for cpu in range(vm.cpus))

    # Of 500; the machine may be busy with other things.
    assert max(ticks() for _ in range(4)) >= 200


@every_way
def test_slow_source(start, fifo, way):
    """Each word arrives once, and in order, however its bytes come."""
    vm = start(way, interrupts=True)
    calls = 100
    total = vm.cpus * calls
    data = source_bytes(0, total)
    vm.call(calls)
    chance = random.Random(1)
    while data:
        size = chance.choice([1, 2, 7, 8, 9, 50])
        fifo.write(data[:size])
        data = data[size:]
        if chance.random() < 0.1:
            with within(1):
                vm.vm.cmd('stop')
                vm.vm.cmd('cont')
        time.sleep(chance.random() * 0.004)
    vm.finish(5)
    values = [vm.values(cpu) for cpu in range(vm.cpus)]
    assert sorted(sum(values, [])) == sorted(map(word, range(total)))
    position = {word(i): i for i in range(total)}
    for got in values:
        assert [position[value] for value in got] == \
            sorted(position[value] for value in got)


@pytest.mark.parametrize('name, share', [
    ('multi', 1 / 4),   # they need the machine's other processor, too
    ('single', 3 / 4),
])
def test_others_go_on(start, fifo, name, share):
    """A vCPU that waits takes little time from another one."""
    way = WAYS[name]
    vm = start(dict(way, cpus=2))
    calls = 500000

    def run():
        vm.call(calls, H_NOBODYS, [0], record=False)
        until(lambda: vm.done(0))
        return vm.seconds()

    def ratio():
        return alone / min(run() for _ in range(2))

    alone = min(run() for _ in range(4))
    vm.call(cpus=[1])
    # The machine may be busy with other things.
    assert max(ratio() for _ in range(3)) >= share
    assert not vm.done(1)
    fifo.write(source_bytes(0, 1))
    vm.finish()
    assert vm.values(1) == [word(0)]


@every_way
def test_timeout(start, fifo, way):
    """Calls fail when their time is up, more at once, until data comes."""
    with_icount = 'options' in way
    vm = start(way, device=',timeout=500', interrupts=not with_icount)

    def seconds_to_fail():
        vm.vm.cmd('system_reset')
        vm.vm.event_wait('RESET')
        before = time.monotonic()
        vm.call()
        vm.finish()
        # With icount, the guest's time follows its instructions.
        seconds = time.monotonic() - before if with_icount else \
            vm.seconds(range(vm.cpus))
        assert seconds >= 0.4
        return seconds

    def seconds_for_more():
        vm.call(100, cpus=[0])
        vm.finish()
        return vm.seconds()

    # Where the machine is busy with other things, it takes more than one try.
    assert any(seconds_to_fail() <= 0.6 for _ in range(3))
    assert any(seconds_for_more() < 0.005 for _ in range(3))
    for cpu in range(vm.cpus):
        assert {status for status, _ in vm.results(cpu)} == {H_HARDWARE}

    failed = len(vm.results())
    fifo.write(source_bytes(0, 2))
    time.sleep(0.05)
    vm.call(2, cpus=[0])
    vm.finish()
    assert vm.results()[failed:] == [(H_SUCCESS, word(0)),
                                     (H_SUCCESS, word(1))]


@every_way
def test_left_call(waiting, way):
    """
    A guest may take an interrupt in a call, and not come back to it.

    Its next call is another one, which has all of its time.
    """
    vm = waiting(way, device=',id=d,timeout=2000', interrupts=True)
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 1)
    until(lambda: all(map(vm.done, range(vm.cpus))))
    assert vm.count() == 0
    for cpu in range(vm.cpus):
        vm.set(cpu, LEAVE, 0)
    time.sleep(1.3)
    waited = statistic(vm, 'wait-time')
    time.sleep(0.2)
    assert statistic(vm, 'wait-time') == waited < vm.cpus * 1e9
    start = time.monotonic()
    vm.call()
    vm.finish()
    assert time.monotonic() - start >= 1.9
    assert vm.results() == [(H_HARDWARE, vm.results()[0][1])]
    assert statistic(vm, 'waits') == 2 * vm.cpus


@every_way
def test_paused_host(waiting, fifo, way):
    """However long QEMU gets no processor, the call goes on afterwards."""
    vm = waiting(way)
    pid = vm.vm.get_pid()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(pid, signal.SIGCONT)
    give(vm, fifo)


@every_way
def test_unrealized(waiting, fifo, way):
    """Without the device, calls are nobody's; with it again, they are its."""
    vm = waiting(way, device=',id=d,timeout=0')

    def realize(value):
        with within(1):
            vm.vm.cmd('qom-set', path='/machine/peripheral/d',
                      property='realized', value=value)

    realize(False)
    vm.finish()
    for cpu in range(vm.cpus):
        assert [status for status, _ in vm.results(cpu)] == [H_FUNCTION]
    realize(True)
    fifo.write(source_bytes(0, vm.cpus))
    vm.call()
    vm.finish()
    assert sorted(vm.results(cpu)[1] for cpu in range(vm.cpus)) == \
        sorted((H_SUCCESS, word(cpu)) for cpu in range(vm.cpus))
    vm.quit()
