# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace events of a guest's calls."""

import re
import time

from testlib.bare_metal import source_bytes
from testlib.egd import EgdDaemon
from testlib.hcalls import H_HARDWARE, H_SUCCESS
from testlib.limits import until

TRACE = ['-trace', 'spapr_rng_*', '-trace', 'rng_*']


def events(vm, names=r'(?:spapr_)?rng_\w+'):
    """The names and texts of all events so far, in order."""
    return re.findall(rf'^({names}) (.*)$', vm.log(), re.MULTILINE)


def device_events(vm):
    """The events of the device, without those of the reading thread."""
    return events(vm, r'spapr_rng_\w+')


def check_wait(seen):
    """Check the events of a call that waited; return its nanoseconds."""
    assert seen[:4] == [('spapr_rng_read', '0 of 8 bytes'),
                        ('spapr_rng_request', '8 bytes'),
                        ('spapr_rng_wait_begin', 'cpu 0: for the backend'),
                        ('spapr_rng_receive', '8 bytes')]
    name, text = seen[4]
    assert name == 'spapr_rng_wait_end'
    assert seen[5:] == [('spapr_rng_call', 'cpu 0')]
    return int(re.fullmatch(r'cpu 0: (\d+) ns', text).group(1))


def test_calls(guest, fifo):
    """Calls that find a word, that wait for a word, and that fail."""
    vm = guest(fifo.backend, *TRACE, timeout=5000, pool_size=8)
    fifo.write(source_bytes(0, 1))
    vm.call()
    vm.finish()
    check_wait(device_events(vm))
    (_, text), = events(vm, 'rng_reader_read')
    assert re.fullmatch(r'8 of 8 bytes in \d+ ns', text)

    vm.call()
    until(lambda: len(device_events(vm)) == 9)
    time.sleep(0.05)
    fifo.write(source_bytes(1, 2))
    vm.finish()
    assert 50e6 < check_wait(device_events(vm)[6:]) < 5e9

    vm.call(2)
    vm.finish()
    seen = [name for name, _ in device_events(vm)[12:]]
    assert seen == ['spapr_rng_read', 'spapr_rng_request',
                    'spapr_rng_wait_begin', 'spapr_rng_wait_end',
                    'spapr_rng_timeout', 'spapr_rng_timeout']
    assert [status for status, _ in vm.results()] == \
        [H_SUCCESS] * 2 + [H_HARDWARE] * 2


def test_quota(guest):
    vm = guest('rng-builtin', *TRACE, max_bytes=80, period=1000)
    vm.call(3)
    vm.finish()
    assert ('spapr_rng_wait_begin', 'cpu 0: for the quota') in events(vm)


def test_source(guest, tmp_path):
    """The failure of a source, and its recovery."""
    source = tmp_path / 'source'
    source.touch()
    vm = guest(f'rng-random,filename={source}', *TRACE, timeout=0)
    vm.call()
    until(lambda: ('rng_backend_fault',
                   f"rng0: cannot read '{source}': end of file; "
                   'requests wait until it gives data') in events(vm))
    source.write_bytes(source_bytes(0, 1))
    vm.finish()
    assert ('rng_backend_fault_cleared', 'rng0') in events(vm)


def test_egd(guest, tmp_path):
    """A daemon that starts late, and stops."""
    daemon = EgdDaemon(tmp_path / 'egd')
    vm = guest(*daemon.backend(), *TRACE, timeout=0)

    def backend_events():
        return [event for event in events(vm) if event[0].startswith('rng_')]

    vm.call()
    until(backend_events)
    assert backend_events() == [
        ('rng_backend_fault', "rng0: there is no daemon at 'egd'; "
         'requests wait until it gives data')]
    daemon.start()
    vm.finish()
    daemon.stop()
    until(lambda: len(backend_events()) >= 4)
    assert backend_events()[1:4] == [('rng_egd_connection', 'egd: 1'),
                                     ('rng_backend_fault_cleared', 'rng0'),
                                     ('rng_egd_connection', 'egd: 0')]
    vm.quit()
