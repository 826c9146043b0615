# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest whose source of random numbers fails."""

import os
import time

import pytest

from testlib import GUESTS, KERNELS, TOP
from testlib.egd import EgdDaemon
from testlib.fifo import Fifo
from testlib.limits import until
from testlib.linux import CURRENT, VIRTIO, Guest, linux_args
from testlib.machine import cpu_share, device, spapr_rng, statistic
from testlib.programs import run
from testlib.sources import RECOVERY, trouble

# Linux gets up to 128 bytes at once from the device. A read that takes only a
# part of these bytes takes their end, so that the first and the last bytes of a
# read may not be in the order of the source.
EDGE = 128
SIZE = 1024
READ = (f"dd if=/dev/hwrng bs={EDGE + SIZE + EDGE} count=1 2>/error | "
        "hexdump -v -e '/1 \"%02x\"'; echo; cat /error")


@pytest.fixture
def boot(tmp_path, pseries):
    """A function that boots Linux, until it accepts commands."""
    def start(*args, kernel='6.1', programs=()):
        return Guest(pseries(*linux_args(kernel, tmp_path, programs=programs),
                             *args))
    return start


@pytest.fixture
def fifo(tmp_path):
    """A FIFO that no process has opened."""
    path = tmp_path / 'fifo'
    os.mkfifo(path)
    return path


@pytest.fixture
def egd(tmp_path):
    """An EGD daemon."""
    daemon = EgdDaemon(tmp_path / 'egd')
    daemon.start()
    yield daemon
    daemon.stop()


def rng_random(path):
    """The arguments for a backend that reads this file."""
    return ['-object', f'rng-random,filename={path},id=rng0']


def rng_egd(daemon):
    """The arguments for a backend that asks this daemon."""
    return ['-chardev', f'socket,path={daemon.path},reconnect-ms=100,id=egd0',
            '-object', 'rng-egd,chardev=egd0,id=rng0']


SPAPR_RNG = ['-device', device(rng='rng0')]
VIRTIO_RNG = ['-device', 'virtio-rng-pci,rng=rng0']


def data_of(answer):
    """The bytes that READ has read, without the edges; READ must succeed."""
    lines, status = answer
    assert status == 0
    data = bytes.fromhex(lines[0])
    assert len(data) == EDGE + SIZE + EDGE, lines
    return data[EDGE:-EDGE]


def words_of(data):
    """The bytes in the order of the source: Linux stores words reversed."""
    return b''.join(data[i:i + 8][::-1] for i in range(0, len(data), 8))


def find_in_order(data, source):
    """
    The positions in the source of the bytes of the data.

    The bytes must be in the source, in this order, and in few pieces: Linux
    itself may take bytes in between.
    """
    places = []
    pieces = 0
    while len(places) < len(data):
        rest = data[len(places):]
        begin = source.find(rest[:8], places[-1] + 1 if places else 0)
        assert begin >= 0, f'byte {len(places)} of {data.hex()}'
        same = os.path.commonprefix([rest, bytes(source[begin:])])
        places += range(begin, begin + len(same))
        pieces += 1
    assert pieces <= 3
    return places


def assert_waits(guest, seconds=0.3):
    """Check that the command in the guest waits."""
    time.sleep(seconds)
    assert guest.waits()


def assert_idles(guest):
    """Check that the command waits, and that QEMU is idle meanwhile."""
    assert_waits(guest, 1)
    # Other processes use the host, too.
    load = min(cpu_share(guest.qemu) for _ in range(3))
    print(f'load {load:.1%}')
    assert load < 0.06      # A loop without a sleep uses far more.
    assert guest.waits()


def reports(log):
    """The messages of rng-random, without the name of the program."""
    return [line[line.index('rng-random '):] for line in log
            if 'rng-random ' in line]


def quits(guest, directory, said):
    """End QEMU; its messages so far, and to its end, must be `said`."""
    log, = directory.glob('*.log')
    until(lambda: reports(log.read_text().splitlines()) == said)
    assert reports(guest.quit()) == said


@pytest.mark.parametrize('kernel', KERNELS)
def test_spapr_rng_without_data(boot, fifo, kernel):
    """
    Without data, the boot is delayed little, and reads fail.

    One call waits for the timeout of five seconds. Later calls, more than two
    dozen, fail at once. QEMU reports this once.
    """
    source = os.urandom(32768)
    fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        guest = boot(*rng_random(fifo), '-device', device(rng='rng0'),
                     kernel=kernel)
        assert guest.run(f'cat {CURRENT}') == (['pseries_rng'], 0)
        for _ in range(3):
            lines, status = guest.run('dd if=/dev/hwrng bs=8 count=1')
            assert 'Input/output error' in lines[0]
            assert status == 1
        waits, timeouts = (statistic(guest, name)
                           for name in ('waits', 'timeouts'))
        print(f'{waits} calls waited, {timeouts} failed')
        assert 1 <= waits < timeouts / 4

        os.write(fd, source)
        # Calls fail until QEMU's thread has read the new data.
        until(lambda: guest.run('dd if=/dev/hwrng of=/dev/null bs=8 count=1')[1]
              == 0)
        find_in_order(words_of(data_of(guest.run(READ))), source)
        assert reports(guest.quit()) == [
            "rng-random 'rng0': no word in 5000 ms; H_RANDOM fails until there "
            'is one', RECOVERY]
    finally:
        os.close(fd)


def test_virtio_rng_on_file(boot, tmp_path):
    """At the end of a file, the guest waits until the file grows."""
    path = tmp_path / 'file'
    path.touch()
    guest = boot(*rng_random(path), *VIRTIO_RNG)
    assert guest.run(VIRTIO) == ([], 0)
    guest.type(READ)
    assert_idles(guest)

    source = os.urandom(4096)
    path.write_bytes(source)
    find_in_order(data_of(guest.answer()), source)

    # At the next end of the file, the source fails again. This failure lasts,
    # so that QEMU reports it 30 s after the first report.
    guest.type('cat /dev/hwrng >/dev/null')
    assert_waits(guest)
    quits(guest, tmp_path, [trouble(path), RECOVERY, trouble(path)])


def test_virtio_rng_on_fifo(boot, fifo):
    """With a FIFO that has no writer, the guest waits for a writer."""
    guest = boot(*rng_random(fifo), *VIRTIO_RNG)
    assert guest.run(VIRTIO) == ([], 0)
    guest.type(READ)
    assert_idles(guest)

    source = os.urandom(4096)
    with open(fifo, 'wb', buffering=0) as writer:
        assert_waits(guest)
        writer.write(source)
        find_in_order(data_of(guest.answer()), source)

        # Now the FIFO is empty, but has a writer.
        guest.type('cat /dev/hwrng >/dev/null')
        assert_waits(guest)

    # QEMU has one failure to report. Before its first writer, an empty FIFO is
    # not readable, so that QEMU did not read it. After its last writer has
    # left, the FIFO is always readable.
    assert_idles(guest)
    with open(fifo, 'wb', buffering=0) as writer:
        writer.write(source)
        assert_waits(guest)
        quits(guest, fifo.parent, [trouble(fifo), RECOVERY])


def test_virtio_rng_on_directory(boot, tmp_path):
    """Each read of a directory fails, and the guest waits."""
    path = tmp_path / 'directory'
    path.mkdir()
    guest = boot(*rng_random(path), *VIRTIO_RNG)
    assert guest.run(VIRTIO) == ([], 0)
    guest.type(READ)
    assert_idles(guest)
    quits(guest, tmp_path, [trouble(path, 'Is a directory')])


def test_both_on_fifo(boot, fifo):
    """Two devices share a FIFO, first without a writer, then with data."""
    guest = boot(*rng_random(fifo), *SPAPR_RNG, *VIRTIO_RNG)

    # Linux's own thread does not disturb this check: its read failed at boot,
    # so that it sleeps for 10 seconds. Otherwise, it would wait for virtio-rng,
    # and keep other processes from reading.
    assert guest.run(f'{VIRTIO}; echo pseries_rng >{CURRENT}') == ([], 0)
    lines, status = guest.run('dd if=/dev/hwrng bs=8 count=1')
    assert 'Input/output error' in lines[0]
    assert status == 1

    assert guest.run(f'echo virtio_rng.0 >{CURRENT}') == ([], 0)
    guest.type(READ)
    assert_idles(guest)

    source = os.urandom(32768)
    with open(fifo, 'wb', buffering=0) as writer:
        writer.write(source)
        places = find_in_order(data_of(guest.answer()), source)
        assert guest.run(f'echo pseries_rng >{CURRENT}') == ([], 0)
        places += find_in_order(words_of(data_of(guest.run(READ))), source)
        assert guest.run(f'echo virtio_rng.0 >{CURRENT}') == ([], 0)
        places += find_in_order(data_of(guest.run(READ)), source)
        assert len(set(places)) == len(places) == 3 * SIZE

        guest.type('cat /dev/hwrng >/dev/null')
        assert_waits(guest)
        quits(guest, fifo.parent, [trouble(fifo), RECOVERY])


def test_virtio_rng_on_egd(boot, egd):
    """The guest gets data in pieces of any size, and after a hang-up."""
    guest = boot(*rng_egd(egd), *VIRTIO_RNG)
    assert guest.run(VIRTIO) == ([], 0)
    find_in_order(data_of(guest.run(READ)), egd.given)

    # An answer of 128 bytes is cut off after 72.
    assert egd.connections == 1
    egd.hang_up(after=200)
    find_in_order(data_of(guest.run(READ)), egd.given)
    assert egd.connections == 2

    egd.single_bytes = True
    find_in_order(data_of(guest.run(READ)), egd.given)


def test_virtio_rng_on_silent_egd(boot, egd):
    """The daemon does not answer, dies, and is replaced by one that does."""
    egd.silent = True
    guest = boot(*rng_egd(egd), *VIRTIO_RNG)
    assert guest.run(VIRTIO) == ([], 0)
    guest.type(READ)
    assert_waits(guest)
    egd.stop()
    assert_idles(guest)
    assert not egd.given

    egd.silent = False
    egd.start()
    find_in_order(data_of(guest.answer()), egd.given)

    egd.silent = True
    guest.type('cat /dev/hwrng >/dev/null')
    assert_waits(guest)
    guest.quit()


@pytest.fixture
def rngd(tmp_path):
    """A function that adds Debian's rngd to tmp_path, and lists its files."""
    debs = GUESTS / 'debs-rngd'
    if not debs.exists():
        done = run(TOP / 'scripts/fetch', 'rngd', debs, 'ppc64el',
                   'bookworm trixie', 'apt-get -qq download rng-tools5 '
                   'rng-tools-debian libc6')
        assert done.returncode == 0, done.stderr

    def add(package):
        for name in ['libc6', package]:
            deb, = debs.glob(f'{name}_*.deb')
            assert run('dpkg-deb', '-x', deb, tmp_path / 'root'
                       ).returncode == 0
        # Trixie has all below /usr.
        libraries = tmp_path / 'lib/powerpc64le-linux-gnu'
        libraries.mkdir(parents=True)
        (tmp_path / 'lib64').mkdir()
        for file in (tmp_path / 'root').rglob('*.so.*'):
            if not file.is_symlink():
                file.rename(libraries / file.name)
        (libraries / 'ld64.so.2').rename(tmp_path / 'lib64/ld64.so.2')
        (tmp_path / 'root/usr/sbin/rngd').rename(tmp_path / 'rngd')
        return ['rngd', 'lib64', 'lib64/ld64.so.2', 'lib',
                'lib/powerpc64le-linux-gnu',
                *(f'lib/powerpc64le-linux-gnu/{file.name}'
                  for file in libraries.iterdir())]
    return add


@pytest.mark.parametrize('package, message', [
    ('rng-tools5', 'No entropy sources working, exiting rngd'),
    ('rng-tools-debian',
     'error reading from entropy source:: Input/output error')])
def test_rngd(boot, rngd, tmp_path, package, message):
    """Debian's two rngd end when a call times out, as the manual says."""
    source = Fifo(tmp_path)
    source.write(os.urandom(4096))
    guest = boot(*spapr_rng(source.backend, timeout=200),
                 programs=rngd(package))
    guest.sh('while dd if=/dev/hwrng of=/dev/null bs=512 count=1; do :; done '
             '2>/dev/null')
    assert message in guest.run('/rngd -f -r /dev/hwrng 2>&1')[0]
    assert statistic(guest, 'timeouts') > 0
    source.close()
