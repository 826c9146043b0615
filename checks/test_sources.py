# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that fail, end or recover, and when QEMU must not read a source."""

import errno
import os
import pty
import re
import select
import shutil
import signal
import struct
import termios
import time
import tty
from pathlib import Path

import pytest

from testlib import slow_source
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import H_UNASSIGNED
from testlib.limits import HANG, until, within
from testlib.sources import (RECOVERY, random_backend, trouble,
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


@pytest.mark.parametrize('error', [errno.ENODEV, errno.EIO],
                         ids=['ENODEV', 'EIO'])
def test_read_error(spied, tmp_path, error):
    """Reads fail as those of /dev/hwrng without hardware or with a fault."""
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, 2))
    vm, control = spied(source, error)
    said = [trouble(source, os.strerror(error))]
    vm.call()
    waits_quietly(vm, said)
    control[0] = 0
    gets(vm, [word(0), word(1)])
    assert vm.reports() == said + [RECOVERY]
    vm.quit()


def test_fails_again(spied, tmp_path):
    """The guest recovers each time; test_messages.py checks the messages."""
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, 24))
    vm, control = spied(source, pool_size=8)
    said = [trouble(source, os.strerror(errno.EIO)), RECOVERY]
    for i in range(3):
        before = control[1]
        control[0] = errno.EIO
        vm.call(8)
        until(lambda: control[1] >= before + 3)
        assert not vm.done(0) and vm.reports()[:1] == said[:1]
        control[0] = 0
        vm.finish()
        assert vm.reports()[:2] == said
    assert vm.values() == [word(i) for i in range(24)]


def test_fifo_without_writer(guest, tmp_path):
    """The FIFO has no writer, and then gets one several times."""
    source = tmp_path / 'fifo'
    os.mkfifo(source)
    vm = guest(random_backend(source), timeout=0)
    said = [trouble(source)]
    vm.call()
    waits_quietly(vm, said)
    for i in range(3):
        with open(source, 'wb') as writer:
            writer.write(source_bytes(i, i + 1))
            writer.flush()
            vm.finish()
        vm.call()
        assert vm.calls_wait()
    assert vm.values() == [word(0), word(1), word(2)]
    assert vm.reports()[:2] == said + [RECOVERY]
    vm.quit()


def test_fifo_whose_writer_leaves(guest, tmp_path):
    source = tmp_path / 'fifo'
    os.mkfifo(source)
    writer = os.open(source, os.O_RDWR)
    vm = guest(random_backend(source), timeout=0)
    vm.call()
    assert vm.calls_wait() and vm.reports() == []
    os.close(writer)
    said = [trouble(source)]
    waits_quietly(vm, said)
    with open(source, 'wb') as writer:
        writer.write(source_bytes(0, 2))
        writer.flush()
        gets(vm, [word(0), word(1)])
    assert vm.reports() == said + [RECOVERY]
    vm.quit()


def test_fifo_made_anew(guest, tmp_path):
    """When the name is another FIFO, QEMU reads that one."""
    source = tmp_path / 'fifo'
    vm = None
    for i in range(2):
        os.mkfifo(source)
        vm = vm or guest(random_backend(source), timeout=0)
        vm.call()
        with within(HANG), open(source, 'wb') as writer:
            writer.write(source_bytes(i, i + 1))
            writer.flush()
            vm.finish()
        source.unlink()
    assert vm.values() == [word(0), word(1)]
    vm.quit()


def all_bytes(i):
    """Words with all values of a byte: a terminal edits some."""
    return bytes((i + j) % 256 for j in range(256))


def test_terminal(guest, tmp_path):
    """
    A serial port gives each byte, and echoes none.

    A generator that is plugged in again is another terminal of the same name.
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
            vm = guest(random_backend(source), timeout=0, health_test='off')
            vm.call(32)
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
    control[slow_source.NO_THREADS] = True
    said = [trouble(source, 'cannot make a thread')]
    vm.qemu.cmd('object-add', **{'qom-type': 'rng-random', 'id': 'other'})
    vm.call()
    waits_quietly(vm, said)
    control[slow_source.NO_THREADS] = False
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
    """QEMU's thread waits in read(2): Linux's /dev/hwrng has no poll method."""
    vm = guest(random_backend('/dev/zero'), timeout=0)
    vm.call()
    vm.finish()
    process = Path(f'/proc/{vm.qemu.get_pid()}')
    fd, = (path.name for path in process.glob('fd/*')
           if os.readlink(path) == '/dev/zero')
    flags = re.search(r'flags:\s*(\d+)', (process / f'fdinfo/{fd}').read_text())
    assert not int(flags[1], 8) & os.O_NONBLOCK
    vm.quit()


def test_nothing_yet(spied):
    """QEMU does not poll a device that signals when it has data."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    vm, control = spied(os.ttyname(slave))
    vm.call()
    until(lambda: control[1])
    assert vm.calls_wait()
    before = control[1]
    time.sleep(1)
    assert control[1] - before <= 2
    os.write(master, source_bytes(0, 1))
    vm.finish()
    assert vm.values() == [word(0)]
    assert vm.reports() == []
    os.close(master)
    os.close(slave)


def test_readable_without_data(spied, tmp_path):
    """A device without a poll method seems readable even without data."""
    source = tmp_path / 'source'
    source.write_bytes(source_bytes(0, 1))
    vm, control = spied(source, errno.EAGAIN)
    vm.call()
    waits_quietly(vm, [])
    start, before = time.monotonic(), control[1]
    time.sleep(1)
    # There are two reads each 20 ms. sleep() may take longer than a second.
    reads = control[1] - before
    assert reads < 150 * (time.monotonic() - start)
    control[0] = 0
    vm.finish()
    assert vm.values() == [word(0)] and vm.reports() == []


def test_idle(guest, fifo):
    """QEMU does not read the source before the guest calls H_RANDOM."""
    fifo.write(source_bytes(0, 100))
    vm = guest(fifo.backend, timeout=0)
    vm.call(1000, H_UNASSIGNED, record=False)
    vm.finish()
    time.sleep(0.3)
    assert fifo.unread() == 800
    vm.call()
    vm.finish()
    assert vm.values() == [word(0)] and fifo.unread() < 800
    # QEMU does not read further without another call.
    before = fifo.unread()
    time.sleep(0.3)
    assert fifo.unread() == before


def test_restored_twice(guest, tmp_path):
    """Guests that are copies of one saved guest never get the same words."""
    # The device has read ahead. Only one guest may get these words.
    first = guest('rng-builtin')
    first.call(9)
    first.finish()
    state = tmp_path / 'state'
    first.save(state)

    others = []
    for i in range(2):
        ram = shutil.copy(first.ram, tmp_path / f'copy{i}')
        other = guest('rng-builtin', '-incoming', 'defer', ram=ram)
        other.restore(state)
        others.append(other)
    first.qemu.cmd('cont')

    words = first.values()
    for vm in first, *others:
        vm.call(1000)
        vm.finish()
        assert vm.values()[:9] == first.values()[:9]
        words += vm.values()[9:]
    assert len(words) == len(set(words)) == 9 + 3 * 1000
