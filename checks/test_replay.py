# SPDX-License-Identifier: GPL-2.0-or-later
"""Record and replay: the guest gets the same numbers at the same time."""

import time

import pytest

from testlib.bare_metal import source_bytes
from testlib.limits import until
from testlib.machine import URANDOM, add_disk, hmp

STEP = 5000     # instructions, enough for some dozens of calls


@pytest.fixture
def start(guest, tmp_path):
    """A function that starts a recording or a replay of 2000 calls."""
    def make(mode, backend):
        # The timeout has no effect: the log does not have the host's clock.
        vm = guest(backend, '-S', '-icount',
                   f'shift=auto,rr={mode},rrfile={tmp_path}/log', timeout=5,
                   health_test='on')
        vm.call(2000)
        return vm
    return make


def slow_chunks():
    """The source is bad at first, and then slow."""
    data = bytes(16) + source_bytes(0, 3000)
    for i in range(0, len(data), 2400):
        time.sleep(0.1)
        yield data[i:i + 2400]


@pytest.mark.parametrize('backend', ['rng-builtin', URANDOM, None])
def test_replay(start, fifo, tmp_path, backend):
    """
    A replay gives the guest the same words in the same time, also with loadvm.

    The log has each byte once: the device must not read ahead of the guest,
    because loadvm would lose these bytes.
    """
    backend = backend or fifo.backend
    with fifo.fed(slow_chunks()):
        vm = start('record', backend)
        vm.qemu.cmd('cont')
        vm.finish()
        vm.quit()
    recorded = vm.values(), vm.seconds()
    assert len(set(vm.values()) - {0}) == 2000

    vm = start('replay', backend)
    add_disk(vm.qemu, tmp_path)

    def run_to(icount):
        vm.qemu.cmd('replay-break', icount=icount)
        vm.qemu.cmd('cont')
        until(lambda: vm.qemu.cmd('query-status')['status'] == 'paused')

    # Look for an instruction in the middle of the calls: the number of
    # instructions after the last call depends on the host.
    icount = 0
    while len(vm.values()) < 500:
        icount += STEP
        run_to(icount)
    middle = vm.values()
    assert len(middle) < 1500
    hmp(vm.qemu, 'savevm middle')
    run_to(icount + STEP)
    assert len(vm.values()) > len(middle)
    hmp(vm.qemu, 'loadvm middle')
    assert vm.values() == middle
    vm.quit('cont')     # The log has the end of QEMU, too.
    assert (vm.values(), vm.seconds()) == recorded


@pytest.mark.parametrize('bad', [False, True], ids=['dry', 'bad'])
def test_replay_without_a_word(start, fifo, bad):
    """The recorded guest waits, and the monitor answers; so does a replay."""
    backend = 'rng-random,filename=/dev/zero' if bad else fifo.backend
    vm = start('record', backend)
    vm.qemu.cmd('cont')
    assert vm.calls_wait()
    time.sleep(0.5)
    for command in ['stop', 'cont', 'query-status']:
        vm.qemu.cmd(command)
    vm.quit()
    assert vm.count() == 0
    vm = start('replay', backend)
    vm.quit('cont')
    assert vm.count() == 0
    assert len(vm.reports()) == bad
