# SPDX-License-Identifier: GPL-2.0-or-later
"""The device under KVM, in a nested guest (L2), and KVM's own H_RANDOM."""

import struct
import time

import pytest

from testlib import KERNELS
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import H_HARDWARE, H_SUCCESS, TICKS
from testlib.limits import until
from testlib.machine import spapr_rng, statistic
from testlib.nested import KNOWN, L1, L2

WORDS = 1024    # words in L0's source, from which L1's Linux reads, too
RNG = '-object rng-random,id=rng0,filename='


@pytest.fixture(scope='module')
def boot(image, tmp_path_factory):
    """A function that boots an L1, with further arguments for L0's QEMU."""
    machines = []

    def start(*args, **kwargs):
        l1 = L1(tmp_path_factory.mktemp('nested'), image, *args, **kwargs)
        machines.append(l1.qemu)
        return l1

    yield start
    for vm in machines:
        vm.shutdown(hard=True)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """The file that is L0's source."""
    path = tmp_path_factory.mktemp('source') / 'source'
    path.write_bytes(source_bytes(0, WORDS))
    return path


def device(source):
    """The arguments of L0's QEMU for the device with this source."""
    return spapr_rng(f'rng-random,filename={source}')


@pytest.fixture(scope='module')
def l1_with(boot, source):
    """An L1 whose machine has the device."""
    return boot(*device(source))


@pytest.fixture(scope='module')
def l1_without(boot):
    """An L1 whose machine does not have the device."""
    return boot()


@pytest.fixture
def l1(l1_with):
    """The L1 that most tests share. Each test starts its own L2."""
    print(f'see {l1_with.log_path}')
    yield l1_with
    # Put the messages of each L2 into the log, even if the test has failed.
    l1_with.run('tail -n 20 log*')
    l1_with.run('for pid in $(pidof qemu); do kill -9 $pid; done; wait; '
                'rm -f log* qmp* trace* state ram')


def waiting(l1, *args, cpus=2, timeout=0, **kwargs):
    """Start an L2, each of whose vCPUs waits in its first call."""
    l1.sh('timeout 0.1 cat fifo >/dev/null; true')
    l2 = L2(l1, f'{RNG}fifo', *args, cpus=cpus, rng='rng0',
            timeout=timeout, **kwargs)
    l2.call()
    assert l2.calls_wait()
    return l2


def still_waits(l2):
    time.sleep(0.1)
    return l2.calls_wait() and l2.count() == 0


def give(l2):
    """Write a word for each vCPU, which must complete the vCPU's one call."""
    assert still_waits(l2)
    l2.l1.feed(0, l2.cpus)
    l2.gets_a_word_each()


def check_in_order(values, words):
    """
    Check that the values of all vCPUs are different words of the source.

    The words of each vCPU must be in order. Returns the indices of the words.
    """
    position = {word(i): i for i in range(words)}
    indices = [[position[value] for value in got] for got in values]
    for got in indices:
        assert got == sorted(got)
    indices = sum(indices, [])
    assert len(set(indices)) == len(indices)
    return indices


def check_kernel_serves(l1, *args, **properties):
    l2 = L2(l1, *args, cpus=2, use_kvm='true', **properties)
    assert l2.in_kernel()
    l2.call(16)
    l2.finish()
    # L1's Linux took some of the words.
    assert len(check_in_order([l2.values(0), l2.values(1)], WORDS)) == 32
    assert l2.exits() == statistic(l2, 'calls') == 0
    assert l2.traced('spapr_rng_in_kernel') == ['enabled (0)']
    assert l2.log() == ''
    l2.quit()


def test_kernel_serves(l1):
    """With use-kvm, calls get L0's words, and do not exit to QEMU."""
    check_kernel_serves(l1)


def test_kernel_serves_instead_of_backend(l1):
    check_kernel_serves(l1, f'{RNG}fifo', rng='rng0')


def check_backend_serves(l1, said='', wrapper='', **properties):
    l2 = L2(l1, f'{RNG}known', cpus=2, wrapper=wrapper, rng='rng0',
            **properties)
    assert not l2.in_kernel()
    calls = KNOWN // 4
    l2.call(calls)
    l2.finish()
    indices = check_in_order([l2.values(0), l2.values(1)], KNOWN)
    assert sorted(indices) == list(range(2 * calls))
    # A call that waits exits more than once.
    assert l2.exits() >= statistic(l2, 'calls') == 2 * calls
    for text in l2.traced('spapr_rng_in_kernel'):
        assert text.rpartition(' (')[0] in said
    assert bool(l2.traced('spapr_rng_in_kernel')) == bool(said)
    assert l2.log() == said
    l2.quit()


def test_backend(l1):
    """With a backend, each call exits, and gets the next word of the source."""
    check_backend_serves(l1)


def test_stop_and_cont(l1):
    l2 = waiting(l1)
    l2.qemu.cmd('stop')
    l2.qemu.cmd('cont')
    give(l2)


def test_bytes_while_stopped(l1):
    l2 = waiting(l1)
    l2.qemu.cmd('stop')
    l1.feed(0, 2)
    assert still_waits(l2)
    l2.qemu.cmd('cont')
    l2.finish()
    assert sorted(l2.values(0) + l2.values(1)) == sorted([word(0), word(1)])


def test_reset(l1):
    """After a reset, the program starts again, and repeats its call."""
    l2 = waiting(l1)
    l2.qemu.cmd('system_reset')
    until(lambda: l2.qemu.cmd('query-status')['running'])
    assert 'RESET' in l2.qemu.events
    give(l2)


def test_migration(l1):
    """After a migration, the call waits in the new machine."""
    l2 = waiting(l1)
    l2.save('state')
    l2.quit()
    assert l2.count() == 0
    l2 = L2(l1, f'{RNG}fifo', '-incoming defer', cpus=2, memory_of=l2,
            rng='rng0', timeout=0)
    l2.restore('state')
    give(l2)


def test_quit(l1):
    waiting(l1).quit()


def test_interrupts(l1):
    """Each vCPU takes decrementer interrupts while its call waits."""
    l2 = waiting(l1, interrupts=True)
    for cpu in range(l2.cpus):
        before = l2.get(cpu, TICKS)
        until(lambda: l2.get(cpu, TICKS) >= before + 20)
    give(l2)


def test_timeout(l1):
    l2 = waiting(l1, timeout=2000)
    l2.finish()
    assert [l2.results(cpu)[0][0] for cpu in range(2)] == [H_HARDWARE] * 2
    assert 1.9 < l2.seconds((0, 1))
    l1.feed(0, 4)
    l2.call_until_success()


def test_linux(l1):
    """Linux as L2 uses the device by itself, and gets L0's words."""
    lines, status = l1.run_qemu(
        '-L . -machine x-vof=on -m 512M -kernel vmlinux -initrd initrd',
        '-append "console=hvc0 loglevel=1" -serial stdio',
        '-device spapr-rng,use-kvm=true')
    assert status == 0
    data = bytes.fromhex(lines[lines.index('current pseries_rng') + 1])
    words = struct.unpack('<32Q', data)
    check_in_order([words], WORDS)


def test_l0_runs_dry(l1, source):
    """Without data in L0, the calls of L2 fail, and later succeed again."""
    l2 = L2(l1, use_kvm='true')
    l2.call(WORDS)
    l2.finish()
    results = l2.results()
    good = [value for status, value in results if status == H_SUCCESS]
    assert 0 < len(good) < WORDS
    assert [status for status, _ in results] == \
        [H_SUCCESS] * len(good) + [H_HARDWARE] * (WORDS - len(good))
    check_in_order([good], WORDS)

    with open(source, 'ab') as file:
        file.write(source_bytes(WORDS, 2 * WORDS))
    l2.call_until_success()
    check_in_order([l2.results()[-1][1:]], 2 * WORDS)


def test_no_generator(l1_without):
    """Without a generator in KVM, the error says what to do."""
    lines, status = l1_without.run_qemu(
        '-bios image -device spapr-rng,use-kvm=true')
    assert status == 1
    assert lines == [
        'qemu: -device spapr-rng,use-kvm=true: the kernel has no random '
        'number generator for guests',
        'Give a backend for such hosts with rng=ID.']


def test_no_generator_but_backend(l1_without):
    """Without a generator in KVM, the backend serves, with one warning."""
    check_backend_serves(
        l1_without,
        'qemu: -device spapr-rng,id=hrandom,rng=rng0,use-kvm=true: warning: '
        'spapr-rng: the kernel has no random number generator for guests; '
        "the backend 'rng0' serves the guest", use_kvm='true')


def test_enabling_fails(l1):
    """The kernel has a generator, but does not let QEMU enable it."""
    l2 = L2(l1, f'{RNG}known', rng='rng0')
    deny = f'./deny-enable-cap {l2.vm_fd()}'
    l2.quit()
    why = 'the kernel does not let QEMU enable its H_RANDOM'
    check_backend_serves(
        l1,
        'qemu: -device spapr-rng,id=hrandom,rng=rng0,use-kvm=true: warning: '
        f"spapr-rng: {why}; the backend 'rng0' serves the guest",
        wrapper=deny, use_kvm='true')
    # The number of the VM's descriptor is the same if QEMU opens the same
    # files.
    lines, status = l1.run_qemu(
        '-bios image -machine memory-backend=ram -m 256M -object memory-'
        'backend-file,id=ram,share=on,size=256M,mem-path=ram',
        '-d trace:kvm_handle_papr_hcall', f'{RNG}known',
        '-device spapr-rng,use-kvm=true', wrapper=deny)
    assert status == 1
    assert lines == [
        f'qemu: -device spapr-rng,use-kvm=true: {why}',
        'Give a backend for such hosts with rng=ID.']


@pytest.mark.parametrize('cpu,kernel', [
    ('POWER9', '6.12'), ('POWER10', '6.1'),
    *(('POWER10', kernel) for kernel in KERNELS[1:])])
def test_elsewhere(boot, source, cpu, kernel):
    """KVM serves the guest on other processors and kernels, too."""
    check_kernel_serves(boot(*device(source), cpu=cpu, kernel=kernel))
