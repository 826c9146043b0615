# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux uses the device, also after its source has failed."""

import contextlib
import os
import time
from difflib import SequenceMatcher

import pytest

from testlib import KERNELS
from testlib.egd import EgdDaemon
from testlib.limits import until
from testlib.linux import (CURRENT, VIRTIO, Guest, linux_args, read_hwrng,
                           words_of)
from testlib.machine import spapr_rng, statistic
from testlib.sources import RECOVERY, trouble

# Linux gets up to 128 bytes at once from the device. A read that takes only a
# part of these bytes takes their end, so that the first and the last bytes of
# a read may not be in the order of the source.
EDGE = 128
SIZE = 1024
READ = read_hwrng(EDGE + SIZE + EDGE)
READ_WORD = 'dd if=/dev/hwrng bs=8 count=1'


@pytest.fixture
def boot(tmp_path, pseries):
    """A function that boots Linux, until it accepts commands."""
    def start(*args, kernel='6.1'):
        return Guest(pseries(*linux_args(kernel, tmp_path), *args))
    return start


def find(answer, source, order=bytes):
    """
    The positions in the source of the bytes that READ has printed.

    The bytes must be in the source, in its order, and in few pieces: Linux
    itself may take bytes in between.

    order: words_of if the bytes are of the device
    """
    data = order(bytes.fromhex(answer[0][0])[EDGE:-EDGE])
    *pieces, _ = SequenceMatcher(None, source, data,
                                 autojunk=False).get_matching_blocks()
    assert sum(piece.size for piece in pieces) == len(data) == SIZE
    assert len(pieces) <= 3
    return [begin + i for begin, _, size in pieces for i in range(size)]


def reads_fail(guest):
    lines, status = guest.run(READ_WORD)
    return 'Input/output error' in lines[0] and status == 1


@pytest.mark.parametrize('vof', ['on', 'off'], ids=['vof', 'slof'])
@pytest.mark.parametrize('kernel', KERNELS)
def test_without_data(boot, fifo, kernel, vof):
    """
    Linux uses the device by itself, with each kernel and firmware.

    Without data, the boot is delayed little, and reads fail. One call waits
    for the timeout of five seconds. Later calls, more than two dozen, fail at
    once. QEMU reports this once.
    """
    guest = boot(*spapr_rng(fifo.backend), '-machine', f'x-vof={vof}',
                 kernel=kernel)
    assert guest.sh(f'cat {CURRENT}') == ['pseries_rng']
    # Byte 0 of the vector is the length. The generator is bit 0 of byte 17.
    assert guest.sh(
        'cd /proc/device-tree; '
        'grep -o hcall-random rtas/ibm,hypertas-functions; '
        'hexdump -s 17 -n 1 -e \'"%02x\\n"\' chosen/ibm,architecture-vec-5; '
        'find ibm,platform-facilities -type d') == [
            'hcall-random', '80', 'ibm,platform-facilities',
            'ibm,platform-facilities/ibm,random-v1']
    assert all(reads_fail(guest) for _ in range(3))
    assert 1 <= statistic(guest, 'waits') < statistic(guest, 'timeouts') / 4

    source = os.urandom(32768)
    fifo.write(source)
    # Calls fail until QEMU's thread has read the new data.
    until(lambda: guest.run(READ_WORD)[1] == 0)
    find(guest.run(READ), source, words_of)
    assert guest.quit() == [
        "rng-random 'rng0': no word in 5000 ms; H_RANDOM fails until there "
        'is one', RECOVERY]


def test_both_on_fifo(boot, fifo):
    """Two devices share a FIFO, first without a writer, then with data."""
    fifo.close()
    guest = boot(*spapr_rng(fifo.backend), '-device',
                 'virtio-rng-pci,rng=rng0')

    # Linux's own thread does not disturb this check: its read failed at boot,
    # so that it sleeps for 10 seconds. Otherwise, it would wait for
    # virtio-rng, and keep other processes from reading.
    guest.sh(f'{VIRTIO}; echo pseries_rng >{CURRENT}')
    assert reads_fail(guest)

    guest.type(f'echo virtio_rng.0 >{CURRENT}; {READ}')
    time.sleep(1)   # The read begins before there is data.
    source = os.urandom(32768)
    fifo.open()
    fifo.write(source)
    places = find(guest.answer(), source)
    places += find(guest.run(f'echo pseries_rng >{CURRENT}; {READ}'), source,
                   words_of)
    places += find(guest.run(f'echo virtio_rng.0 >{CURRENT}; {READ}'), source)
    assert len(set(places)) == len(places) == 3 * SIZE
    assert guest.quit() == [trouble(fifo.path), RECOVERY]


def test_virtio_rng_on_egd(boot, tmp_path):
    """The guest gets data in pieces of any size, and after a hang-up."""
    with contextlib.closing(EgdDaemon(tmp_path / 'egd')) as egd:
        egd.start()
        backend, *chardev = egd.backend()
        guest = boot(*chardev, '-object', f'{backend},id=rng0',
                     '-device', 'virtio-rng-pci,rng=rng0')
        guest.sh(VIRTIO)
        find(guest.run(READ), egd.given)

        # An answer of 128 bytes is cut off after 72.
        assert egd.connections == 1
        egd.hang_up(after=200)
        find(guest.run(READ), egd.given)
        assert egd.connections == 2

        egd.single_bytes = True
        find(guest.run(READ), egd.given)
