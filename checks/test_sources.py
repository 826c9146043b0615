# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that fail, end or recover, and when QEMU must not read a source."""

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


def gets(vm, words):
    """Check that the call, and a further call for each word, succeed."""
    vm.finish()
    for _ in words[1:]:
        vm.call()
        vm.finish()
    assert vm.values() == words


@pytest.mark.parametrize('error', [errno.ENODEV, errno.EIO, errno.EAGAIN],
                         ids=errno.errorcode.get)
def test_read_error(spied, tmp_path, error):
    """
    Reads fail as those of /dev/hwrng without hardware or with a fault.

    With EAGAIN, a device without a poll method only has no data yet.
    """
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, 2))
    vm, control = spied(source, error)
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
    gets(vm, [word(0), word(1)])
    assert vm.reports() == said + [RECOVERY] * len(said)
    vm.quit()


@pytest.mark.parametrize('leaves', [False, True])
def test_fifo_without_writer(guest, fifo, leaves):
    """No writer has opened the FIFO yet, or its writer leaves."""
    if not leaves:
        fifo.close()
    vm = guest(fifo.backend, timeout=0)
    vm.call()
    if leaves:
        assert vm.calls_wait() and vm.reports() == []
        fifo.close()
    said = [trouble(fifo.path)]
    waits_quietly(vm, said)
    fifo.open()
    fifo.write(source_bytes(0, 2))
    gets(vm, [word(0), word(1)])
    assert vm.reports() == said + [RECOVERY]
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
    gets(vm, [word(0)])
    assert vm.reports() == said + [RECOVERY]
    assert readers(vm)
    vm.quit()


def test_signals(guest, fifo):
    """QEMU handles signals in its main thread, not in the one that reads."""
    vm = guest(fifo.backend, timeout=0)
    vm.call()
    assert vm.calls_wait()
    thread, = readers(vm)
    blocked = re.search(r'SigBlk:\s*(\w+)', (thread / 'status').read_text())
    assert all(int(blocked[1], 16) >> number - 1 & 1 for number in (
        signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    vm.quit()


def test_character_device(guest):
    """QEMU waits in read(2), as Linux's /dev/hwrng has no poll method."""
    vm = guest(random_backend('/dev/zero'), timeout=0)
    vm.call()
    vm.finish()
    fd, = descriptors(vm, Path('/dev/zero'))
    info = Path(f'/proc/{vm.qemu.get_pid()}/fdinfo/{fd}').read_text()
    flags = re.search(r'flags:\s*(\d+)', info)
    assert not int(flags[1], 8) & os.O_NONBLOCK
    vm.quit()
