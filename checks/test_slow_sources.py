# SPDX-License-Identifier: GPL-2.0-or-later
"""Slow sources: the machine never stops while QEMU reads the source."""

import os
import statistics
import time
from pathlib import Path

import pytest

from testlib.hcalls import DONE, GO, H_HARDWARE, H_UNASSIGNED, TB_HZ, TIME
from testlib.limits import best_run, until
from testlib.linux import CURRENT, VIRTIO, Guest, linux_args
from testlib.machine import add_disk, device, hmp, set_property, statistic
from testlib.programs import compile_for_guest
from testlib.slow_source import SLOW, SlowSource, build, latencies

ENDLESS = 1 << 40


def sources(*names):
    return pytest.mark.parametrize('which', [SLOW[name] for name in names],
                                   ids=names)


# What a read gives: all that it asks for, or what there is
kinds = pytest.mark.parametrize('short', [False, True], ids=['hwrng', 'short'])

# The number of chunks before the read that never returns
never_returns = pytest.mark.parametrize('most', [0, 20], ids=['first', 'later'])


@pytest.fixture(scope='session')
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp('slow-read'))


@pytest.fixture
def source(library, tmp_path):
    """A function that makes a SlowSource."""
    def make(which, **kwargs):
        return SlowSource(tmp_path, library, *which, **kwargs)
    return make


@pytest.fixture
def start(guest):
    """A function that starts the guest on a SlowSource."""
    def make(slow, *args, **kwargs):
        vm = guest(slow.backend, *args, wrapper=slow.wrapper,
                   **kwargs)
        slow.keep_out(vm.qemu)
        return vm
    return make


def calls_all_the_time(vm):
    """Have vCPU 0 call all the time, also after a reset."""
    vm.call(ENDLESS, cpus=[0], record=False)


def stop_calling(vm):
    """End the calls by a reset; the device forgets that the source is dry."""
    vm.set(0, GO, vm.get(0, DONE))
    vm.reset()


def gives_no_more(slow):
    """Whether the source gives no chunk for 0.3 s."""
    chunks = slow.chunks
    time.sleep(0.3)
    return chunks == slow.chunks


def until_it_hangs(slow):
    """Wait until a read does not return, because no chunk is left."""
    until(lambda: slow.is_read)
    until(lambda: gives_no_more(slow))
    assert slow.is_read


@pytest.fixture
def start_calling(source, start):
    """A function that starts a guest that calls, and waits for a read.

    The function returns the source and the guest.
    """
    def make(which, **kwargs):
        slow = source(which, **kwargs)
        vm = start(slow)
        calls_all_the_time(vm)
        until(lambda: slow.is_read)
        slow.check_readers()
        return slow, vm
    return make


@pytest.fixture
def start_hanging(source, start):
    """A function that starts a guest that calls, until a read hangs.

    The function returns the source and the guest.
    """
    def make(most, timeout=0):
        slow = source((32, 1), most=most)
        vm = start(slow, timeout=timeout)
        calls_all_the_time(vm)
        until_it_hangs(slow)
        slow.check_readers()
        return slow, vm
    return make


def answers_soon(vm, capsys, name):
    """Check that the monitor answers soon.

    As the host may be busy, all answers of one series have to be prompt.
    """
    def worst():
        times = latencies(vm, 80)
        with capsys.disabled():
            print(f'\n{name}: monitor, median '
                  f'{statistics.median(times) * 1e3:.2f} ms, worst '
                  f'{times[-1] * 1e3:.2f} ms', end=' ')
        return times[-1]

    until(lambda: worst() < 0.05)


@kinds
@sources(*SLOW)
def test_slow(start_calling, capsys, which, short):
    """
    The guest gets what the source gives, and the monitor answers meanwhile.

    If QEMU kept the BQL in a read, an answer would take as long as a read.
    """
    slow, vm = start_calling(which, short=short)
    chunk, ms = which
    size = chunk * -(-2000 // ms)
    stop_calling(vm)

    def run():
        before = slow.given
        vm.call(size // 8)
        vm.finish()
        # Bytes that QEMU had read before do not count.
        ours = min(size, slow.given - before) / vm.seconds()
        plain = slow.plain_rate(size)
        with capsys.disabled():
            print(f'\n{ours:.0f} bytes/s, a plain reader {plain:.0f}, '
                  f'ratio {ours / plain:.3f}', end=' ')
        return ours / plain

    assert best_run(run, 0.97) >= 0.97
    calls_all_the_time(vm)
    answers_soon(vm.qemu, capsys, f'{chunk} bytes each {ms} ms')
    slow.check_readers()
    vm.quit()


@never_returns
def test_monitor_while_a_read_hangs(start_hanging, capsys, most):
    slow, vm = start_hanging(most)
    answers_soon(vm.qemu, capsys, 'a read that does not return')
    slow.check_readers()
    vm.quit()


def do_commands(vm, directory):
    """Execute the commands that stop vCPUs or save the devices' state."""
    add_disk(vm.qemu, directory)
    vm.qemu.cmd('stop')
    vm.qemu.cmd('cont')
    vm.reset()
    hmp(vm.qemu, 'savevm saved')
    hmp(vm.qemu, 'loadvm saved')
    vm.save(directory / 'state')
    vm.qemu.cmd('cont')


@sources('10ms-64', '500ms-32')
def test_commands(start_calling, tmp_path, which):
    """QEMU executes each command, and the guest gets words afterwards."""
    slow, vm = start_calling(which)
    do_commands(vm, tmp_path)
    before = statistic(vm, 'bytes')
    until(lambda: statistic(vm, 'bytes') >= before + 100)
    slow.check_readers()
    vm.quit()


@never_returns
def test_commands_while_a_read_hangs(start_hanging, tmp_path, most):
    """QEMU executes each command, and quit does not wait for the read."""
    slow, vm = start_hanging(most)
    before = statistic(vm, 'bytes')
    do_commands(vm, tmp_path)
    assert slow.is_read and slow.chunks == most
    assert statistic(vm, 'bytes') == before
    slow.check_readers()
    vm.quit()


def uses(vm, slow):
    """The paths in /proc of QEMU's reading thread and of its descriptor."""
    process = Path(f'/proc/{vm.get_pid()}')
    return [path for path in [*process.glob('task/*'), *process.glob('fd/*')]
            if path.name in map(str, slow.readers()) or
            path.resolve() == slow.path]


@never_returns
def test_object_del_while_a_read_hangs(start_hanging, most):
    """After the read returns, nothing of the deleted backend is left."""
    slow, vm = start_hanging(most)
    vm.qemu.cmd('object-add', **{'qom-type': 'rng-builtin', 'id': 'rng1'})
    before = statistic(vm, 'bytes')
    set_property(vm, 'rng', 'rng1')
    vm.qemu.cmd('object-del', id='rng0')
    until(lambda: statistic(vm, 'bytes') > before)
    assert slow.is_read and len(uses(vm.qemu, slow)) == 2
    slow.heal()
    until(lambda: not uses(vm.qemu, slow))
    vm.quit()


def test_heals(source, start):
    """When the read returns at last, the call gets the word."""
    slow = source((32, 1), most=0)
    vm = start(slow, timeout=0)
    vm.call()
    until_it_hangs(slow)
    assert not vm.done(0)
    slow.heal()
    vm.finish()
    assert vm.values() == [int.from_bytes(slow.path.read_bytes()[:8], 'big')]
    vm.quit()


@never_returns
def test_timeout(start_hanging, capsys, most):
    """A call fails after the timeout although the read does not return."""
    _, vm = start_hanging(most, timeout=1000)

    def seconds_to_fail():
        stop_calling(vm)
        before = statistic(vm, 'timeouts')
        vm.call()
        vm.finish()
        # The results also have the calls of earlier rounds.
        assert vm.results()[-1][0] == H_HARDWARE
        assert statistic(vm, 'timeouts') == before + 1
        with capsys.disabled():
            print(f'\na call of timeout=1000 took {vm.seconds():.3f} s',
                  end=' ')
        assert vm.seconds() >= 0.8
        return vm.seconds()

    # A busy host may need more than one try.
    until(lambda: seconds_to_fail() <= 1.2)
    vm.quit()


def test_slower_than_a_call_may_wait(source, start):
    """Calls fail after the timeout, unless bytes come; no call hangs."""
    slow = source((32, 500))
    vm = start(slow, timeout=100)
    calls_all_the_time(vm)
    until(lambda: statistic(vm, 'bytes') >= 64)
    # After a call has failed, a later call waits again.
    until(lambda: statistic(vm, 'waits') >= 3)
    vm.qemu.cmd('stop')
    calls, timeouts, size = (statistic(vm, name) for name in
                             ('calls', 'timeouts', 'bytes'))
    assert timeouts > 0 and calls == timeouts + size // 8
    vm.quit()


def test_slow_but_in_time(source, start, capsys):
    """No call fails if the source is slow, but faster than the timeout."""
    slow = source((32, 500))
    vm = start(slow, timeout=1000)

    def all_succeed():
        before = statistic(vm, 'timeouts')
        vm.call(40, record=TIME)
        vm.finish()
        longest = max(vm.durations()) / TB_HZ
        with capsys.disabled():
            print(f'\nthe longest call took {longest:.3f} s', end=' ')
        return statistic(vm, 'timeouts') == before and longest <= 1.2

    until(all_succeed)
    vm.quit()


@sources('10ms-64', '500ms-32')
def test_other_vcpu(source, start, capsys, which):
    """Another vCPU runs as fast as without the calls."""
    slow = source(which)
    vm = start(slow, cpus=2, timeout=0)

    def run():
        vm.call(500000, H_UNASSIGNED, [1], record=False)
        until(lambda: vm.done(1))
        return vm.seconds([1])

    def ratio():
        """Measure both soon after each other, as the host may become busy."""
        alone = min(run() for _ in range(4))
        calls_all_the_time(vm)
        until(lambda: slow.is_read)
        slow.check_readers()
        beside = min(run() for _ in range(4))
        assert not vm.done(0)
        stop_calling(vm)
        with capsys.disabled():
            print(f'\nanother vCPU keeps {alone / beside:.2f}', end=' ')
        return alone / beside

    until(lambda: ratio() >= 0.9)


def takes_from(fifo, vm, written):
    """How many bytes QEMU has taken from the FIFO that the guest has not."""
    time.sleep(0.1)
    return written - fifo.unread() - statistic(vm, 'bytes')


@pytest.mark.parametrize('pool_size', [8, 16, 256, 4096])
def test_read_ahead(guest, fifo, pool_size):
    """QEMU has read at most twice pool-size ahead, in all buffers together.

    The words of the start-up test are gone with the first calls.
    """
    vm = guest(fifo.backend, timeout=0, pool_size=pool_size, health_test='on')
    written = 16384
    fifo.write(os.urandom(written))
    for calls in 72, 1, 2, 100, 2000:
        fifo.write(os.urandom(8 * calls))
        written += 8 * calls
        vm.call(calls)
        vm.finish()
        assert takes_from(fifo, vm, written) <= \
            (2 * pool_size if pool_size > 8 else 0)
        assert fifo.unread() > 0
    vm.quit()


def check_single_calls(slow, vm):
    """
    Check that a call which finds nothing needs no more than the next chunk.

    The source gives only this chunk: a call that needed another one would not
    end. The guest calls all the time, so that no bytes read before are left.
    """
    for _ in range(8):
        until_it_hangs(slow)
        before = statistic(vm, 'bytes')
        slow.allow(1)
        until(lambda least=before: statistic(vm, 'bytes') > least)


@kinds
@sources(*SLOW)
def test_single_call(source, start, which, short):
    """The first call needs one chunk, and so do later calls."""
    slow = source((which[0], 1), most=1, short=short)
    vm = start(slow, timeout=0)
    vm.call()
    vm.finish()
    slow.allow(0)
    calls_all_the_time(vm)
    check_single_calls(slow, vm)
    vm.quit()


def test_becomes_slow(source, start):
    """
    A fast source that becomes slow costs no failed call.

    At 64 bytes each 350 ms, 10 chunks take 3.5 s. A call may wait 5 s.
    """
    slow = source((64, 0))
    vm = start(slow, timeout=0)
    vm.call(20000, record=False)
    vm.finish()
    slow.slow_down(5)
    slow.allow(0)
    calls_all_the_time(vm)
    until_it_hangs(slow)
    before = statistic(vm, 'bytes')
    slow.allow(10)
    until(lambda: statistic(vm, 'bytes') > before)
    until(lambda: gives_no_more(slow))
    check_single_calls(slow, vm)
    vm.quit()


def test_short_reads(source, start, capsys):
    """Most calls need not wait for a fast source whose reads are short."""
    slow = source((16, 0), short=True)
    vm = start(slow)

    def run():
        before = statistic(vm, 'waits')
        vm.call(5000, record=False)
        vm.finish()
        waits = statistic(vm, 'waits') - before
        with capsys.disabled():
            print(f'\n{waits} of 5000 calls waited', end=' ')
        return 5000 / max(waits, 1)

    # If nothing is read ahead, every other call waits.
    assert best_run(run, 5) >= 5
    vm.quit()


def test_single_bytes(guest, fifo):
    """If a FIFO gets bytes one by one, one call takes exactly one word."""
    vm = guest(fifo.backend, timeout=0)
    vm.call()
    for i in range(1, 9):
        assert not vm.done(0)
        fifo.write(bytes([i]))
        until(lambda: fifo.unread() == 0)
    vm.finish()
    assert vm.values() == [0x0102030405060708]
    fifo.write(bytes(1))
    time.sleep(0.3)
    assert fifo.unread() == 1


def test_linux(source, tmp_path, pseries, capsys):
    """virtio-rng does not stop for a slow source either.

    Linux reads all the time, so that virtio-rng always has a request.
    """
    slow = source((64, 10))
    guest = Guest(pseries(
        *linux_args('6.1', tmp_path), '-device',
        'virtio-rng-pci,rng=rng0', '-object', f'{slow.backend},id=rng0',
        wrapper=slow.wrapper))
    slow.keep_out(guest.qemu)
    assert guest.run(VIRTIO) == ([], 0)
    guest.type('dd if=/dev/hwrng of=/dev/null bs=512')
    until(lambda: slow.is_read)
    slow.check_readers()

    def run():
        begin, before = time.monotonic(), slow.given
        time.sleep(1)
        ours = (slow.given - before) / (time.monotonic() - begin)
        plain = slow.plain_rate(6400)
        with capsys.disabled():
            print(f'\nLinux: {ours:.0f} bytes/s, a plain reader {plain:.0f}, '
                  f'ratio {ours / plain:.2f}', end=' ')
        return ours / plain

    assert best_run(run, 0.9) >= 0.9
    answers_soon(guest.qemu, capsys, 'Linux, 64 bytes each 10 ms')
    slow.allow(1)
    until_it_hangs(slow)
    answers_soon(guest.qemu, capsys, 'Linux, a read that does not return')
    for command in ['stop', 'cont', 'system_reset']:
        guest.qemu.cmd(command)
    assert slow.is_read
    slow.check_readers()
    guest.quit()


def test_two_front_ends(source, tmp_path, pseries, capsys):
    """virtio-rng and spapr-rng, which both want all, each get a fair share."""
    slow = source((64, 10))
    compile_for_guest('guests/reseed.c', tmp_path)
    guest = Guest(pseries(
        *linux_args('6.1', tmp_path, programs=['reseed']), '-smp', '2',
        '-object', f'{slow.backend},id=rng0', '-device',
        'virtio-rng-pci,rng=rng0', '-device',
        device(rng='rng0', health_test='off'), wrapper=slow.wrapper))
    guest.sh(f'{VIRTIO}; echo virtio_rng.0 >{CURRENT}')
    guest.sh('dd if=/dev/hwrng of=/dev/null bs=512 2>/dev/null &')
    guest.type(f'/reseed {10 ** 6}')
    until(lambda: statistic(guest, 'waits') > 100)

    def run():
        taken, given = statistic(guest, 'bytes'), slow.given
        time.sleep(1)
        ours = (statistic(guest, 'bytes') - taken) / (slow.given - given)
        with capsys.disabled():
            print(f'\nspapr-rng gets {ours:.2f}', end=' ')
        return ours

    # On a busy host, Linux may be late with one request or another.
    shares = sorted(run() for _ in range(7))[1:-1]
    assert 0.2 <= shares[0] and shares[-1] <= 0.8
    guest.qemu.cmd('quit')
