# SPDX-License-Identifier: GPL-2.0-or-later
"""Slow sources: the machine never stops while QEMU reads the source."""

import os
import time

import pytest

from testlib.limits import best_run, until
from testlib.linux import CURRENT, VIRTIO, Guest, linux_args
from testlib.machine import add_disk, device, hmp, set_property, statistic
from testlib.programs import compile_for_guest
from testlib.slow_source import SLOW, SlowSource, latencies
from testlib.sources import descriptors

every_source = pytest.mark.parametrize('which', SLOW.values(), ids=SLOW)

# What a read gives: all that it asks for, or what there is
kinds = pytest.mark.parametrize('short', [False, True], ids=['hwrng', 'short'])


@pytest.fixture
def start(failing_read, guest, tmp_path):
    """A function that starts a guest on a SlowSource; it returns both."""
    def make(which, **kwargs):
        slow = SlowSource(tmp_path, failing_read, *which, **kwargs)
        return slow, guest(slow.backend, wrapper=slow.wrapper, timeout=0)
    return make


def calls_all_the_time(vm):
    """Have the vCPU call all the time, also after a reset."""
    vm.call(1 << 40, record=False)


def until_it_hangs(slow, vm):
    """Wait until a read does not return, and the guest has all other bytes."""
    def is_dry():
        before = statistic(vm, 'bytes')
        time.sleep(0.2)
        return slow.hangs and statistic(vm, 'bytes') == before

    until(is_dry)


def answers_soon(vm):
    """Check that the monitor answers soon.

    As the host may be busy, all answers of one series have to be prompt.
    """
    until(lambda: max(latencies(vm.qemu, 80)) < 0.05)


def do_commands(vm, directory):
    """Execute the commands that stop vCPUs or save the devices' state."""
    add_disk(vm.qemu, directory)
    vm.qemu.cmd('stop')
    vm.qemu.cmd('cont')
    vm.reset()
    hmp(vm.qemu, 'savevm saved')
    hmp(vm.qemu, 'loadvm saved')
    vm.save(directory / 'state')
    vm.qemu.cmd('cont')


@kinds
@every_source
def test_slow(start, tmp_path, which, short):
    """
    QEMU reads all the time, and executes each command.

    If QEMU kept the BQL in a read, an answer would take as long as a read.
    """
    slow, vm = start(which, short=short)
    calls_all_the_time(vm)
    assert best_run(slow.share_read, 0.97) >= 0.97
    answers_soon(vm)
    do_commands(vm, tmp_path)
    before = statistic(vm, 'bytes')
    until(lambda: statistic(vm, 'bytes') >= before + 100)
    assert slow.other_reads == 0
    vm.quit()


# The number of chunks before the read that never returns
@pytest.mark.parametrize('most', [0, 20], ids=['first', 'later'])
def test_read_hangs(start, tmp_path, most):
    """
    QEMU executes each command, and deletes the backend.

    After the read returns, nothing of the backend is left.
    """
    slow, vm = start((32, 1), most=most)
    calls_all_the_time(vm)
    until_it_hangs(slow, vm)
    answers_soon(vm)
    before = statistic(vm, 'bytes')
    do_commands(vm, tmp_path)
    assert slow.hangs and slow.other_reads == 0
    assert statistic(vm, 'bytes') == before
    vm.qemu.cmd('object-add', **{'qom-type': 'rng-builtin', 'id': 'rng1'})
    set_property(vm, 'rng', 'rng1')
    vm.qemu.cmd('object-del', id='rng0')
    until(lambda: statistic(vm, 'bytes') > before)
    assert slow.hangs and descriptors(vm, slow.path)
    slow.allow(1000)
    until(lambda: not descriptors(vm, slow.path))
    vm.quit()


@pytest.mark.parametrize('pool_size', [8, 256, 4096])
def test_read_ahead(guest, fifo, pool_size):
    """QEMU has read at most twice pool-size ahead, in all buffers together.

    The words of the start-up test are gone with the first calls.
    """
    vm = guest(fifo.backend, timeout=0, pool_size=pool_size, health_test='on')
    written = 16384
    fifo.write(os.urandom(written))
    for calls in 72, 1, 2, 100, 2000:
        fifo.write(os.urandom(8 * calls))
        written += 8 * calls
        vm.call(calls)
        vm.finish()
        time.sleep(0.1)
        ahead = written - fifo.unread() - statistic(vm, 'bytes')
        assert ahead <= (2 * pool_size if pool_size > 8 else 0)
        assert fifo.unread() > 0
    vm.quit()


def check_single_calls(slow, vm):
    """
    Check that a call which finds nothing needs no more than the next chunk.

    The source gives only this chunk: a call that needed another one would not
    end. The guest calls all the time, so that no bytes read before are left.
    """
    for _ in range(4):
        until_it_hangs(slow, vm)
        before = statistic(vm, 'bytes')
        slow.allow(1)
        until(lambda least=before: statistic(vm, 'bytes') > least)


@kinds
@every_source
def test_single_call(start, which, short):
    """The first call needs one chunk, and so do later calls."""
    slow, vm = start((which[0], 1), most=1, short=short)
    vm.call()
    vm.finish()
    calls_all_the_time(vm)
    check_single_calls(slow, vm)
    vm.quit()


def test_becomes_slow(start):
    """
    A fast source that becomes slow costs no failed call.

    At 64 bytes each 350 ms, 10 chunks take 3.5 s. A call may wait 5 s.
    """
    slow, vm = start((0, 0))
    vm.call(20000, record=False)
    vm.finish()
    slow.allow(0)
    slow.slow_down(64, 5)
    calls_all_the_time(vm)
    until_it_hangs(slow, vm)
    before = statistic(vm, 'bytes')
    slow.allow(10)
    until(lambda: statistic(vm, 'bytes') > before)
    check_single_calls(slow, vm)
    vm.quit()


def test_short_reads(start):
    """Most calls need not wait for a fast source whose reads are short."""
    _, vm = start((16, 0), short=True)

    def calls_per_wait():
        before = statistic(vm, 'waits')
        vm.call(5000, record=False)
        vm.finish()
        return 5000 / max(statistic(vm, 'waits') - before, 1)

    # If nothing is read ahead, every other call waits.
    assert best_run(calls_per_wait, 5) >= 5
    vm.quit()


def test_two_front_ends(failing_read, tmp_path, pseries):
    """
    virtio-rng does not stop for a slow source either, and gets a fair share.

    Linux reads all the time, so that virtio-rng always has a request.
    """
    slow = SlowSource(tmp_path, failing_read, 64, 10)
    compile_for_guest('guests/reseed.c', tmp_path)
    guest = Guest(pseries(
        *linux_args('6.1', tmp_path, programs=['reseed']),
        '-object', f'{slow.backend},id=rng0', '-device',
        'virtio-rng-pci,rng=rng0', '-device',
        device(rng='rng0', health_test='off'), wrapper=slow.wrapper))
    guest.sh(f'{VIRTIO}; echo virtio_rng.0 >{CURRENT}')
    guest.sh('dd if=/dev/hwrng of=/dev/null bs=512 2>/dev/null &')

    assert best_run(slow.share_read, 0.9) >= 0.9
    answers_soon(guest)
    waits = statistic(guest, 'waits')
    guest.type('/reseed')
    until(lambda: statistic(guest, 'waits') > waits + 100)

    def share():
        taken, given = statistic(guest, 'bytes'), slow.given
        time.sleep(1)
        return (statistic(guest, 'bytes') - taken) / (slow.given - given)

    # On a busy host, Linux may be late with one request or another.
    shares = sorted(share() for _ in range(7))[1:-1]
    assert 0.2 <= shares[0] and shares[-1] <= 0.8
    slow.allow(1)
    until(lambda: slow.hangs)
    answers_soon(guest)
    for command in ['stop', 'cont', 'system_reset']:
        guest.qemu.cmd(command)
    assert slow.hangs and slow.other_reads == 0
    guest.quit()
