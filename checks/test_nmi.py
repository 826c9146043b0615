# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs that get a system reset interrupt while they wait."""

import pytest

from testlib.accels import every_accel
from testlib.bare_metal import source_bytes
from testlib.hcalls import START


@pytest.mark.parametrize('interrupts', [False, True],
                         ids=['masked', 'interrupts'])
@every_accel
def test_nmi(guest, fifo, way, interrupts):
    """
    Each vCPU restarts in the middle of its call, and repeats the call.

    If a vCPU stayed halted, or if the abandoned call got a word, one call would
    never end.
    """
    vm = guest(fifo.backend, **way, interrupts=interrupts,
               timeout=0)
    vm.call()
    assert vm.calls_wait()
    for _ in range(3):
        for cpu in range(vm.cpus):
            vm.set(cpu, START, 0)
        vm.qemu.cmd('inject-nmi')
        assert vm.calls_wait()
    fifo.write(source_bytes(0, vm.cpus))
    vm.gets_a_word_each()
    vm.quit()
