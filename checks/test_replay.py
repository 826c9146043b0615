# SPDX-License-Identifier: GPL-2.0-or-later
"""Record and replay: the guest gets the same numbers at the same time."""

import os
import threading
import time

import pytest

from testlib.limits import until
from testlib.machine import URANDOM, add_disk, hmp
from testlib.replay import run, start


STEP = 5000     # instructions, enough for some dozens of calls


@pytest.mark.parametrize('backend', ['rng-builtin', URANDOM])
def test_replay(guest, tmp_path, backend):
    recorded = run(guest, 'record', tmp_path / 'log', backend)
    assert len(set(recorded[0])) == 2000
    assert run(guest, 'replay', tmp_path / 'log', backend) == recorded


@pytest.mark.parametrize('backend', ['rng-builtin', URANDOM])
def test_snapshot_in_a_replay(guest, tmp_path, backend):
    """
    After loadvm in a replay, the guest gets the recorded words again.

    The log has each byte once: the device must not read ahead of the guest,
    because loadvm would lose these bytes.
    """
    vm = start(guest, 'record', tmp_path / 'log', backend)
    vm.qemu.cmd('cont')
    vm.finish()
    recorded = vm.values()
    vm.quit()

    vm = start(guest, 'replay', tmp_path / 'log', backend)
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
    for _ in range(2):
        run_to(icount + STEP)
        assert len(vm.values()) > len(middle)
        assert vm.values() == recorded[:len(vm.values())]
        hmp(vm.qemu, 'loadvm middle')
        assert vm.values() == middle
    vm.quit()


def test_replay_of_a_slow_source(guest, fifo, tmp_path):
    """Words for which the recording waited come from the log in a replay."""
    def feed():
        for _ in range(10):
            time.sleep(0.1)
            fifo.write(os.urandom(1600))

    feeder = threading.Thread(target=feed)
    feeder.start()
    recorded = run(guest, 'record', tmp_path / 'log', fifo.backend)
    feeder.join()
    assert len(set(recorded[0])) == 2000
    assert run(guest, 'replay', tmp_path / 'log', fifo.backend) == recorded


def test_recording_a_dry_source(guest, fifo, tmp_path):
    """The guest waits without a timeout, and the monitor answers."""
    vm = guest(fifo.backend, '-icount',
               f'shift=auto,rr=record,rrfile={tmp_path / "log"}',
               timeout=100)
    vm.call()
    assert vm.calls_wait()
    time.sleep(0.5)
    assert vm.calls_wait()
    for command in ['stop', 'cont', 'query-status']:
        vm.qemu.cmd(command)
    vm.quit()
