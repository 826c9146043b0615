# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that fail and recover, and how QEMU opens and reads them."""

import errno
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from pathlib import Path

import pytest

from testlib.bare_metal import word
from testlib.limits import until
from testlib.machine import hmp
from testlib.slow_source import ERROR, NO_THREADS
from testlib.sources import (RECOVERY, descriptors, random_backend, trouble,
                             waits_quietly)


def readers(vm):
    """The directories below /proc of the threads that read for rng0."""
    return [path.parent for path in
            Path(f'/proc/{vm.qemu.get_pid()}').glob('task/*/comm')
            if path.read_text() == 'RNG rng0\n']


def reads_seldom(vm, most):
    """Check that QEMU reads less often than so many times a second."""
    hmp(vm.qemu, 'trace-event rng_reader_read on')
    start = time.monotonic()
    time.sleep(1)
    reads = vm.log().count('rng_reader_read ')
    assert reads < most * (time.monotonic() - start)
    until(lambda: 'rng_reader_read ' in vm.log())


@pytest.mark.parametrize('error', [errno.ENODEV, errno.EAGAIN],
                         ids=errno.errorcode.get)
def test_read_error(slow_guest, error):
    """
    Reads fail as those of /dev/hwrng without hardware.

    With EAGAIN, a device without a poll method only has no data yet.
    """
    source, vm = slow_guest()
    source.control[ERROR] = error
    said = [] if error == errno.EAGAIN else [
        trouble(source.path, os.strerror(error))]
    vm.call()
    waits_quietly(vm, said)
    reads_seldom(vm, 150)   # There are two reads each 20 ms.
    source.control[ERROR] = 0
    vm.finish()
    assert vm.values() == [word(0)]
    assert vm.reports() == said + [RECOVERY] * len(said)
    vm.quit()


def test_writer_leaves(guest, fifo):
    """QEMU is idle while a FIFO has no writer."""
    vm = guest(fifo.backend, timeout=0)
    vm.call()
    fifo.close()
    waits_quietly(vm, [trouble(fifo.path)])
    vm.quit()


def test_terminal(guest, tmp_path):
    """
    A serial port gives each byte, and echoes none.

    It signals when it has data, so that QEMU need not poll it. A generator
    that is plugged in again is another terminal of the same name.
    """
    source = tmp_path / 'tty'
    vm, given = None, b''
    for i in range(2):
        master, slave = pty.openpty()
        source.unlink(missing_ok=True)
        source.symlink_to(os.ttyname(slave))
        vm = vm or guest(random_backend(source), timeout=0)
        vm.call(32)
        until(lambda: not termios.tcgetattr(slave)[3] & termios.ICANON)
        if i == 0:
            # QEMU reads once a second, and would poll 50 times a second.
            reads_seldom(vm, 10)
            assert vm.reports() == []
        # All values of a byte: a terminal edits some.
        data = bytes((i + j) % 256 for j in range(256))
        os.write(master, data)
        given += data
        vm.finish()
        assert select.select([master], [], [], 0)[0] == []
        os.close(slave)
        os.close(master)
    assert struct.pack('>64Q', *vm.values()) == given
    vm.quit()


def test_no_thread(slow_guest):
    """A host that allows no more threads does not end QEMU."""
    source, vm = slow_guest()
    source.control[NO_THREADS] = True
    said = [trouble(source.path, 'cannot create a thread')]
    vm.qemu.cmd('object-add', **{'qom-type': 'rng-random', 'id': 'other'})
    vm.call()
    waits_quietly(vm, said)
    source.control[NO_THREADS] = False
    vm.finish()
    assert vm.values() == [word(0)]
    assert vm.reports() == said + [RECOVERY]
    assert readers(vm)
    vm.quit()


def test_reader(guest):
    """
    How the thread is set up that reads a character device.

    It waits in read(2), as Linux's /dev/hwrng has no poll method, and handles
    none of QEMU's signals.
    """
    vm = guest(random_backend('/dev/zero'), timeout=0)
    vm.call()
    vm.finish()
    fd, = descriptors(vm, Path('/dev/zero'))
    info = Path(f'/proc/{vm.qemu.get_pid()}/fdinfo/{fd}').read_text()
    flags = re.search(r'flags:\s*(\d+)', info)
    assert not int(flags[1], 8) & os.O_NONBLOCK
    thread, = readers(vm)
    blocked = re.search(r'SigBlk:\s*(\w+)', (thread / 'status').read_text())
    assert all(int(blocked[1], 16) >> number - 1 & 1 for number in (
        signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    vm.quit()
