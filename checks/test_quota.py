# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest gets no more than max-bytes in a period, and evenly."""

import time

import pytest

from bare_metal import (DONE, H_NOBODYS, H_RANDOM, TICKS, add_disk, hmp,
                        statistic, until, within)

URANDOM = 'rng-random,filename=/dev/urandom'
FOR_EVER = 10 ** 12


def device(max_bytes, period, more=''):
    return f',id=d,max-bytes={max_bytes},period={period},timeout=0{more}'


@pytest.mark.parametrize('max_bytes, period, seconds, cpus, options', [
    (800, 1000, 10, 1, []),             # 100 words/s, each waited for
    (1000000, 1000, 10, 4, []),
    (8000, 10000, 4, 2, []),
    (1000, 1, 4, 1, []),
    (10000000, 1000, 4, 2, []),         # a word in 800 ns
    (1000000, 1000, 4, 4, ['-accel', 'tcg,thread=single']),
    (100000, 1000, 4, 2, ['-icount', 'shift=4']),
], ids=str)
def test_rate(guest, capsys, max_bytes, period, seconds, cpus, options):
    """Within 5 % of the limit, by the guest's own clock."""
    vm = guest(URANDOM, *options, device=device(max_bytes, period), cpus=cpus,
               interrupts=True)
    limit = max_bytes * 1000 / period
    calls = int(limit / 8 * seconds / cpus)
    used = vm.cpu_seconds()
    vm.call(calls, record=False)
    vm.finish(4 * seconds)
    took = vm.seconds(range(cpus))
    rate = calls * cpus * 8 / took
    with capsys.disabled():
        print(f'\nlimit {limit:.0f} bytes/s: {rate:.0f} bytes/s, '
              f'{100 * (vm.cpu_seconds() - used) / took:.0f} % of a core',
              end=' ')
    assert 0.95 * limit <= rate <= 1.05 * limit
    assert statistic(vm, 'bytes') == calls * cpus * 8
    assert statistic(vm, 'throttled') == statistic(vm, 'waits') > 100
    # Interrupts were taken meanwhile, most of the 1000 a second.
    assert all(vm.get(cpu, TICKS) > 200 * seconds for cpu in range(cpus))
    vm.quit()


def test_masked_interrupts(guest):
    """With -icount, one that the guest does not take cannot stop the time."""
    vm = guest(URANDOM, '-icount', 'shift=4', device=device(8000, 1000))
    vm.call(500)
    vm.finish()
    assert statistic(vm, 'throttled') > 100
    # Not each millisecond, as it would if it took them
    assert vm.get(0, TICKS) < 10
    vm.quit()


def test_even(guest):
    """Words come one by one, not a second's worth at a time."""
    vm = guest(URANDOM, device=device(800, 1000), interrupts=True)
    vm.call(200)
    until(lambda: vm.count() >= 20)
    for _ in range(10):
        count = vm.count()
        time.sleep(0.1)
        # 10 are due, a few more if either of us was late
        assert 5 <= vm.count() - count <= 18
    vm.quit()


def test_others_go_on(guest):
    """Who waits for its quota holds up neither other vCPUs nor the monitor."""
    vm = guest(URANDOM, device=device(8, 1000), cpus=4)

    def rate():
        done = [vm.get(cpu, DONE) for cpu in (2, 3)]
        vm.call(200000, H_NOBODYS, (2, 3), record=False)
        until(lambda: [vm.get(cpu, DONE) for cpu in (2, 3)] ==
              [n + 1 for n in done])
        return 200000 / vm.seconds((2, 3))

    alone = max(rate() for _ in range(5))
    vm.call(FOR_EVER, H_RANDOM, (0, 1), record=False)
    until(lambda: statistic(vm, 'throttled') > 0)
    beside = max(rate() for _ in range(5))
    assert beside > alone / 2
    for _ in range(20):
        start = time.monotonic()
        vm.vm.cmd('query-status')
        assert time.monotonic() - start < 0.2
    with within(1):
        vm.vm.cmd('stop')
        vm.vm.cmd('cont')
    vm.quit()


def test_source_is_left_alone(guest, fifo):
    """Nobody reads for a guest that may not have it yet."""
    vm = guest(fifo.backend, device=device(80, 1000, ',pool-size=8'))
    fifo.write(bytes(8 * 100))
    vm.call(100)
    until(lambda: statistic(vm, 'throttled') > 2)
    assert fifo.unread() >= 8 * (100 - vm.count() - 1) > 0
    vm.quit()


def test_loadvm(guest, tmp_path):
    """What was due long after the time that it is now is due soon."""
    vm = guest(URANDOM, device=device(800, 1000))
    add_disk(vm.vm, tmp_path)
    hmp(vm.vm, 'savevm early')
    vm.call(300)
    vm.finish()
    hmp(vm.vm, 'loadvm early')
    start = time.monotonic()
    vm.call(20)
    vm.finish()
    assert time.monotonic() - start < 2
    assert len(vm.values()) == 20
    vm.quit()
