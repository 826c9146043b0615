# SPDX-License-Identifier: GPL-2.0-or-later
"""Replacing the source of a running guest: qom-set of the property rng.

test_fuzz.py replaces it while vCPUs call, and checks the order of words.
"""

import pytest

from testlib.bare_metal import source_bytes, word
from testlib.hcalls import H_HARDWARE
from testlib.limits import until
from testlib.machine import DEVICE, URANDOM, set_property, statistic
from testlib.sources import state


def test_after_a_bad_source(guest, fifo):
    """The state of the old source does not affect the new one."""
    vm = guest('rng-random,filename=/dev/zero', '-object',
               f'{fifo.backend},id=rng1', timeout=300, health_test='on')

    def fails():
        vm.call()
        vm.finish()
        return vm.results()[-1][0] == H_HARDWARE

    assert fails()
    until(lambda: state(vm) == 'bad')
    # A call waits for the new source, although earlier calls failed.
    waits = statistic(vm, 'waits')
    set_property(vm, 'rng', 'rng1')
    assert fails() and statistic(vm, 'waits') > waits
    assert "rng-random 'rng0' is not tested any more" in vm.log()
    fifo.write(source_bytes(0, 71))
    assert fails()
    fifo.write(source_bytes(71, 72))
    vm.call_until_success()
    assert vm.results()[-1][1] == word(0)
    # The old source is still bad.
    set_property(vm, 'rng', 'rng0')
    vm.call(200)
    vm.finish()
    until(lambda: state(vm) == 'bad')
    assert statistic(vm, 'bytes') == 72 * 8
    vm.quit()


@pytest.mark.parametrize('name, why, args', [
    ('', 'spapr-rng cannot do without a backend', []),
    ('thread', "Invalid parameter type for 'rng', expected: rng-backend",
     ['-object', 'iothread,id=thread']),
    ('nothing', "Device 'nothing' not found", []),
    ('rng1', "a replay does not know when 'rng' was replaced",
     ['-icount', 'shift=auto,rr=record,rrfile=/dev/null'])])
def test_refused(guest, name, why, args):
    """QEMU refuses bad values with a reason, and keeps the source."""
    vm = guest(URANDOM, '-object', 'rng-builtin,id=rng1', *args)
    answer = vm.qemu.qmp('qom-set', path=DEVICE, property='rng', value=name)
    assert answer['error']['desc'] == why
    set_property(vm, 'rng', 'rng0')     # The current value is accepted.
    assert statistic(vm, 'rng') == '/objects/rng0'
    vm.call()
    vm.finish()
    assert len(vm.values()) == 1
