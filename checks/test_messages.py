# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages about a source that fails: one line for each failure."""

import errno
import os
import re
import time
from contextlib import closing

import pytest

from testlib.bare_metal import source_bytes, word
from testlib.egd import EgdDaemon, until_connected
from testlib.hcalls import H_HARDWARE
from testlib.limits import HANG, until
from testlib.machine import statistic
from testlib.sources import INTERVAL, RECOVERY, trouble

SILENT = 'no word in 300 ms; H_RANDOM fails until there is one'
TIMEOUT = 300


def left_out(message):
    found = re.search(r' \(messages left out: (\d+)\)$', message)
    return int(found.group(1)) if found else 0


def test_writer_comes_and_goes(guest, tmp_path):
    """
    In an INTERVAL, QEMU reports one failure and one recovery.

    QEMU counts the messages that it leaves out. It reports a failure that
    began in the INTERVAL later, if the failure lasts.
    """
    words = 50
    source = tmp_path / 'fifo'
    os.mkfifo(source)
    vm = guest(f'rng-random,filename={source}', '-trace', 'rng_reader_read',
               timeout=0, pool_size=8)

    def until_trouble():
        """Wait until the reader has read the end of the file twice.

        Between these reads, the backend has noticed the failure.
        """
        before = vm.log().count('rng_reader_read 0 of')
        until(lambda: vm.log().count('rng_reader_read 0 of') >= before + 2)

    start = time.monotonic()
    vm.call(words + 1)
    for i in range(words):
        until_trouble()
        with open(source, 'wb') as writer:
            writer.write(source_bytes(i, i + 1))
            writer.flush()
            until(lambda count=i + 1: vm.count() == count)
    until_trouble()
    assert vm.reports()[:2] == [trouble(source), RECOVERY]
    assert len(vm.reports()) <= 2 + 2 * (time.monotonic() - start) / INTERVAL

    # There is a failure before and after each word, and a recovery with it.
    until(lambda: len(vm.reports()) + sum(map(left_out, vm.reports())) ==
          2 * words + 1)
    assert vm.reports()[-1].startswith(trouble(source))
    assert time.monotonic() - start >= INTERVAL
    with open(source, 'wb') as writer:
        writer.write(source_bytes(words, words + 1))
        writer.flush()
        vm.finish()
    assert vm.values() == [word(i) for i in range(words + 1)]
    assert vm.reports()[-1] == RECOVERY
    vm.quit()


def check_silent(vm, kind):
    """Check that many calls fail, and that QEMU reports only the first."""
    vm.call(10)
    vm.finish()
    assert [status for status, _ in vm.results()] == [H_HARDWARE] * 10
    assert vm.reports() == [f"{kind} 'rng0': {SILENT}"]
    vm.call(1000)
    vm.finish()
    assert len(vm.reports()) == 1 and statistic(vm, 'timeouts') == 1010


def check_over(vm, kind):
    vm.call_until_success()
    assert vm.reports() == [f"{kind} 'rng0': {SILENT}",
                            f"{kind} 'rng0' gives data again"]


def test_dry_fifo(guest, fifo):
    vm = guest(fifo.backend, timeout=TIMEOUT)
    check_silent(vm, 'rng-random')
    fifo.write(source_bytes(0, 1000))
    check_over(vm, 'rng-random')


def test_silent_daemon(guest, tmp_path):
    """The daemon gets requests, and at first does not answer."""
    with closing(EgdDaemon(tmp_path / 'egd')) as daemon:
        daemon.silent = True
        daemon.start()
        vm = guest(*daemon.backend(), timeout=TIMEOUT)
        until_connected(vm)
        check_silent(vm, 'rng-egd')
        assert daemon.requests
        # On a new connection, QEMU repeats the requests, and gets answers.
        daemon.silent = False
        daemon.hang_up()
        check_over(vm, 'rng-egd')
        vm.quit()


def test_null_chardev(guest):
    vm = guest('rng-egd,chardev=egd', '-chardev', 'null,id=egd',
               timeout=TIMEOUT)
    check_silent(vm, 'rng-egd')
    # QEMU does not repeat the message, however long the failure lasts.
    time.sleep(INTERVAL + 1)
    vm.call()
    vm.finish()
    assert len(vm.reports()) == 1
    vm.quit()


def state(vm):
    return vm.qemu.cmd('qom-get', path='/objects/rng0', property='state')


def until_event(vm, expected, why):
    """Wait for an event with this state, whose message contains `why`."""
    event = vm.qemu.event_wait('RNG_STATE_CHANGED', timeout=HANG)
    data = event['data']
    assert (data['id'], data['state']) == ('rng0', expected)
    assert why in data['message']
    assert data['message'] in vm.reports()[-1]
    assert state(vm) == expected


def end_of_file(request, tmp_path):
    source = tmp_path / 'source'
    source.touch()
    vm = request.getfixturevalue('guest')(f'rng-random,filename={source}',
                                          timeout=0)
    yield vm, 'silent', 'end of file'
    source.write_bytes(source_bytes(0, 1))
    yield 'gives data again'


def read_error(request, tmp_path):
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, 1))
    vm, control = request.getfixturevalue('spied')(source, errno.EIO)
    yield vm, 'silent', 'Input/output error'
    control[0] = 0
    yield 'gives data again'


def hang_up(request, tmp_path):
    with closing(EgdDaemon(tmp_path / 'egd')) as daemon:
        daemon.silent = True
        daemon.start()
        vm = request.getfixturevalue('guest')(*daemon.backend(), timeout=0)
        vm.call()
        until(lambda: daemon.requests)
        daemon.stop()
        yield vm, 'silent', 'there is no daemon'
        daemon.silent = False
        daemon.start()
        yield 'gives data again'


def not_random(request, _):
    fifo = request.getfixturevalue('fifo')
    fifo.write(bytes(8))
    vm = request.getfixturevalue('guest')(fifo.backend, timeout=0,
                                          health_test='on')
    yield vm, 'bad', 'all bytes are thrown away'
    fifo.write(source_bytes(0, 1000))
    yield 'gives random data again'


@pytest.mark.parametrize('fault', [end_of_file, read_error, hang_up,
                                   not_random])
def test_events(request, tmp_path, fault):
    """Programs get an event when a fault begins, and when it ends."""
    steps = fault(request, tmp_path)
    vm, expected, why = next(steps)
    if vm.done(0):
        assert state(vm) == 'good'
        vm.call()
    until_event(vm, expected, why)
    until_event(vm, 'good', next(steps))
    vm.finish()
    assert not vm.qemu.get_qmp_events()
    next(steps, None)
    vm.quit()
