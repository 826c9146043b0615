# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages about a source that fails: one line for each failure."""

import re
import time

from testlib.bare_metal import source_bytes, word
from testlib.limits import until
from testlib.machine import until_event
from testlib.sources import INTERVAL, RECOVERY, state, trouble


def all_messages(vm):
    """How many messages there were, with those that were left out."""
    left_out = re.findall(r' \(messages left out: (\d+)\)$', vm.log(), re.M)
    return len(vm.reports()) + sum(map(int, left_out))


def test_writer_comes_and_goes(guest, fifo):
    """
    In an INTERVAL, QEMU reports one failure and one recovery.

    QEMU counts the messages that it leaves out. It reports a failure that
    began in the INTERVAL later, if the failure lasts.
    """
    words = 50
    vm = guest(fifo.backend, timeout=0, pool_size=8)
    start = time.monotonic()
    vm.call(words + 1)
    for i in range(words):
        fifo.close()
        until(lambda: state(vm) == 'silent')
        fifo.open()
        fifo.write(source_bytes(i, i + 1))
        until(lambda count=i + 1: vm.count() == count)
    fifo.close()
    assert vm.reports()[:2] == [trouble(fifo.path), RECOVERY]

    # There is a failure before and after each word, and a recovery with it.
    until(lambda: all_messages(vm) == 2 * words + 1)
    assert vm.reports()[-1].startswith(trouble(fifo.path))
    assert time.monotonic() - start >= INTERVAL
    fifo.open()
    fifo.write(source_bytes(words, words + 1))
    vm.finish()
    assert vm.values() == [word(i) for i in range(words + 1)]
    assert vm.reports()[-1] == RECOVERY
    vm.quit()


def test_events(guest, fifo):
    """Programs get an event when a fault begins, and when it ends."""
    vm = guest(fifo.backend, timeout=0, health_test='on')
    vm.call()
    for data, expected, why in [
            (bytes(8), 'bad', 'all bytes are thrown away'),
            (source_bytes(0, 1000), 'good', 'gives random data again')]:
        fifo.write(data)
        event = until_event(vm.qemu, 'RNG_STATE_CHANGED')
        assert (event['id'], event['state']) == ('rng0', expected)
        assert why in event['message']
        assert event['message'] in vm.reports()[-1]
        assert state(vm) == expected
    vm.finish()
    assert not vm.qemu.get_qmp_events()
    vm.quit()
