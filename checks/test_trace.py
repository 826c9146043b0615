# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace events of a guest's calls."""

import contextlib
import re
import time

from testlib.bare_metal import source_bytes
from testlib.egd import EgdDaemon
from testlib.limits import until

TRACE = ['-trace', 'spapr_rng_*', '-trace', 'rng_*']


def events(vm, start):
    """All events so far whose names begin so, in order; N instead of times."""
    return re.findall(rf'^{start}.*', re.sub(r'\d+ ns', 'N ns', vm.log()),
                      re.MULTILINE)


def test_calls(guest, fifo):
    """Calls that wait for a word, and that fail."""
    vm = guest(fifo.backend, *TRACE, timeout=5000, pool_size=8)
    request = ['spapr_rng_read 0 of 8 bytes', 'spapr_rng_request 8 bytes',
               'spapr_rng_wait_begin cpu 0: for the backend']
    answer = ['spapr_rng_receive 8 bytes', 'spapr_rng_wait_end cpu 0: N ns',
              'spapr_rng_call cpu 0']
    vm.call()
    until(lambda: len(events(vm, 'spapr_rng_')) == 3)
    time.sleep(0.05)
    fifo.write(source_bytes(0, 1))
    vm.finish()
    assert events(vm, 'spapr_rng_') == request + answer
    assert int(re.search(r'cpu 0: (\d+) ns', vm.log())[1]) > 50e6
    assert events(vm, 'rng_reader_read')[-1] == \
        'rng_reader_read 8 of 8 bytes in N ns'

    vm.call(2)
    vm.finish()
    assert events(vm, 'spapr_rng_')[6:] == request + [
        'spapr_rng_wait_end cpu 0: N ns', 'spapr_rng_timeout cpu 0',
        'spapr_rng_timeout cpu 0']


def test_quota(guest):
    vm = guest('rng-builtin', *TRACE, max_bytes=80, period=1000)
    vm.call(3)
    vm.finish()
    assert 'spapr_rng_wait_begin cpu 0: for the quota' in \
        events(vm, 'spapr_rng_')


def test_egd(guest, tmp_path):
    """A daemon that starts late, and stops."""
    with contextlib.closing(EgdDaemon(tmp_path / 'egd')) as daemon:
        vm = guest(*daemon.backend(), *TRACE, timeout=0)
        vm.call()
        until(lambda: events(vm, 'rng_'))
        daemon.start()
        vm.finish()
    until(lambda: events(vm, 'rng_')[:4] == [
        "rng_backend_fault rng0: there is no daemon at 'egd'; "
        'requests wait until it gives data', 'rng_egd_connection egd: 1',
        'rng_backend_fault_cleared rng0', 'rng_egd_connection egd: 0'])
