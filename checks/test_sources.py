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

from testlib.bare_metal import source_bytes, word
from testlib.limits import until
from testlib.slow_source import CALLS, ERROR, NO_THREADS
from testlib.sources import (RECOVERY, descriptors, random_backend, trouble,
                             waits_quietly)


def readers(vm):
    """The directories below /proc of the threads that read for rng0."""
    return [path.parent for path in
            Path(f'/proc/{vm.qemu.get_pid()}').glob('task/*/comm')
            if path.read_text() == 'RNG rng0\n']


@pytest.mark.parametrize('error', [errno.ENODEV, errno.EAGAIN],
                         ids=errno.errorcode.get)
def test_read_error(spied, tmp_path, error):
    """
    Reads fail as those of /dev/hwrng without hardware.

    With EAGAIN, a device without a poll method only has no data yet.
    """
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, 2))
    vm, control = spied(source)
    control[ERROR] = error
    said = [] if error == errno.EAGAIN else [
        trouble(source, os.strerror(error))]
    vm.call()
    waits_quietly(vm, said)
    start, before = time.monotonic(), control[CALLS]
    time.sleep(1)
    # There are two reads each 20 ms. sleep() may take longer than a second.
    reads = control[CALLS] - before
    assert reads < 150 * (time.monotonic() - start)
    control[ERROR] = 0
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


def all_bytes(i):
    """Words with all values of a byte: a terminal edits some."""
    return bytes((i + j) % 256 for j in range(256))


def test_terminal(spied, tmp_path):
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
        if vm:
            vm.call(32)
            until(lambda: not termios.tcgetattr(slave)[3] & termios.ICANON)
        else:
            vm, control = spied(source)
            vm.call(32)
            until(lambda: control[CALLS])
            start = time.monotonic()
            time.sleep(1)
            # QEMU reads once a second, and would poll 50 times a second.
            assert control[CALLS] < 10 * (time.monotonic() - start)
            assert vm.reports() == []
        os.write(master, all_bytes(i))
        given += all_bytes(i)
        vm.finish()
        assert select.select([master], [], [], 0)[0] == []
        os.close(slave)
        os.close(master)
    assert struct.pack('>64Q', *vm.values()) == given
    vm.quit()


def test_no_thread(spied, tmp_path):
    """A host that allows no more threads does not end QEMU."""
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, 1))
    vm, control = spied(source)
    control[NO_THREADS] = True
    said = [trouble(source, 'cannot create a thread')]
    vm.qemu.cmd('object-add', **{'qom-type': 'rng-random', 'id': 'other'})
    vm.call()
    waits_quietly(vm, said)
    control[NO_THREADS] = False
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
