# SPDX-License-Identifier: GPL-2.0-or-later
"""Record and replay: the guest gets the same numbers at the same time."""

import time

import pytest

from testlib.bare_metal import source_bytes
from testlib.limits import HANG, until
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


@pytest.fixture
def record(start):
    """A function that records a run: its words, and how long they took."""
    def run(backend):
        vm = start('record', backend)
        vm.qemu.cmd('cont')
        vm.finish()
        vm.quit()
        assert len(set(vm.values())) == 2000
        return vm.values(), vm.seconds()
    return run


def finish_replay(vm):
    """The log has the end of QEMU, too."""
    vm.qemu.cmd('cont')
    vm.qemu.wait(timeout=HANG)
    assert vm.qemu.exitcode() == 0
    return vm.values(), vm.seconds()


@pytest.mark.parametrize('backend', ['rng-builtin', URANDOM])
def test_snapshot_in_a_replay(start, record, tmp_path, backend):
    """
    After loadvm in a replay, the guest gets the recorded words again.

    The log has each byte once: the device must not read ahead of the guest,
    because loadvm would lose these bytes.
    """
    recorded = record(backend)
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
    assert finish_replay(vm) == recorded


def test_replay_of_a_slow_source(start, record, fifo):
    """The source was bad at first, and the recording waited for its words."""
    data = bytes(16) + source_bytes(0, 3000)

    def chunks():
        for i in range(0, len(data), 2400):
            time.sleep(0.1)
            yield data[i:i + 2400]

    with fifo.fed(chunks()):
        recorded = record(fifo.backend)
    assert 0 not in recorded[0]
    assert finish_replay(start('replay', fifo.backend)) == recorded


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
    finish_replay(vm)
    assert vm.count() == 0
    assert len(vm.reports()) == bad
