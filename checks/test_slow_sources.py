# SPDX-License-Identifier: GPL-2.0-or-later
"""Slow sources: the machine never stops while QEMU reads the source."""

import os
import time

import pytest

from testlib.limits import until
from testlib.linux import CURRENT, VIRTIO, Guest, linux_args
from testlib.machine import (add_disk, hmp, set_property, spapr_rng,
                             statistic)
from testlib.programs import compile_for_guest
from testlib.slow_source import (CHUNK, CHUNK_US, CHUNKS, FOR_EVER, OTHERS,
                                 SLOW, SlowSource, latencies)
from testlib.sources import descriptors

every_source = pytest.mark.parametrize('chunk, ms', SLOW.values(), ids=SLOW)

# What a read gives: all that it asks for, or what there is
kinds = pytest.mark.parametrize('short', [False, True], ids=['hwrng', 'short'])


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


@kinds
@every_source
def test_slow(slow_guest, chunk, ms, short):
    """
    QEMU reads all the time, and answers meanwhile.

    If QEMU kept the BQL in a read, an answer would take as long as a read.
    """
    slow, vm = slow_guest(chunk, ms, short=short)
    vm.call(FOR_EVER, record=False)
    until(lambda: slow.share_read() >= 0.97)
    answers_soon(vm)
    assert slow.control[OTHERS] == 0
    vm.quit()


# The number of chunks before the read that never returns
@pytest.mark.parametrize('most', [0, 20], ids=['first', 'later'])
def test_read_hangs(slow_guest, tmp_path, most):
    """
    QEMU executes the commands that stop vCPUs or save the devices' state.

    It also deletes the backend. After the read returns, nothing of the backend
    is left.
    """
    slow, vm = slow_guest(32, 1, most)
    vm.call(FOR_EVER, record=False)
    until_it_hangs(slow, vm)
    answers_soon(vm)
    before = statistic(vm, 'bytes')
    add_disk(vm.qemu, tmp_path)
    vm.qemu.cmd('stop')
    vm.qemu.cmd('cont')
    vm.reset()
    hmp(vm.qemu, 'savevm saved')
    hmp(vm.qemu, 'loadvm saved')
    vm.save(tmp_path / 'state')
    vm.qemu.cmd('cont')
    assert slow.hangs and slow.control[OTHERS] == 0
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


def check_calls(slow, vm, *enough):
    """
    Check that a call which finds nothing needs no more chunks than `enough`.

    The source gives only these chunks: a call that needed another one would
    not end. The guest calls all the time, so that no bytes read before are
    left.
    """
    for chunks in enough:
        until_it_hangs(slow, vm)
        before = statistic(vm, 'bytes')
        slow.allow(chunks)
        until(lambda least=before: statistic(vm, 'bytes') > least)


@kinds
@every_source
def test_single_call(slow_guest, chunk, ms, short):
    """The first call needs one chunk, and so do later calls."""
    slow, vm = slow_guest(chunk, 1, most=1, short=short)
    vm.call()
    vm.finish()
    vm.call(FOR_EVER, record=False)
    check_calls(slow, vm, 1, 1, 1, 1)
    vm.quit()


def test_becomes_slow(slow_guest):
    """
    A fast source that becomes slow costs no failed call.

    At 64 bytes each 350 ms, 10 chunks take 3.5 s. A call may wait 5 s.
    """
    slow, vm = slow_guest()
    vm.call(20000, record=False)
    vm.finish()
    slow.allow(0)
    slow.control[CHUNK_US] = 5000
    slow.control[CHUNK] = 64
    vm.call(FOR_EVER, record=False)
    check_calls(slow, vm, 10, 1, 1, 1, 1)
    vm.quit()


def test_short_reads(slow_guest):
    """Calls need not wait for a source whose reads are fast, but short."""
    _, vm = slow_guest(16, short=True)

    def waits():
        before = statistic(vm, 'waits')
        vm.call(10, record=False)
        vm.finish()
        time.sleep(0.01)    # The reader is slower than a guest without pauses.
        return statistic(vm, 'waits') - before

    # If only one read were ahead, four calls would wait. A busy host may need
    # more than one try.
    until(lambda: not any(waits() for _ in range(5)))
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
        *spapr_rng(slow.backend, health_test='off'),
        '-device', 'virtio-rng-pci,rng=rng0', wrapper=slow.wrapper))
    guest.sh(f'{VIRTIO}; echo virtio_rng.0 >{CURRENT}')
    guest.sh('dd if=/dev/hwrng of=/dev/null bs=512 2>/dev/null &')

    until(lambda: slow.share_read() >= 0.9)
    answers_soon(guest)
    waits = statistic(guest, 'waits')
    guest.type('/reseed')
    until(lambda: statistic(guest, 'waits') > waits + 100)

    def share():
        taken, chunks = statistic(guest, 'bytes'), slow.control[CHUNKS]
        time.sleep(1)
        return (statistic(guest, 'bytes') - taken) / 64 / \
            (slow.control[CHUNKS] - chunks)

    # On a busy host, Linux may be late with one request or another.
    shares = sorted(share() for _ in range(7))[1:-1]
    assert 0.2 <= shares[0] and shares[-1] <= 0.8
    slow.allow(1)
    until(lambda: slow.hangs)
    answers_soon(guest)
    for command in ['stop', 'cont', 'system_reset']:
        guest.qemu.cmd(command)
    assert slow.hangs and slow.control[OTHERS] == 0
    guest.quit()
