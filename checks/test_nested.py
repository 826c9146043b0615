# SPDX-License-Identifier: GPL-2.0-or-later
"""The device under KVM, in a nested guest (L2), and KVM's own H_RANDOM."""

import os
import random
import re
import signal
import struct
import time

import pytest

from testlib import KERNELS
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import H_HARDWARE, H_SUCCESS, TICKS
from testlib.limits import HANG, best_run, until, within
from testlib.linux import CURRENT, VIRTIO
from testlib.machine import (device, format_disk, hmp, set_property,
                             spapr_rng, statistic)
from testlib.nested import KNOWN, L1, L2, LinuxL2, shell_bytes

KVM_EXIT_PAPR_HCALL = 19    # from linux/kvm.h
WORDS = 1024    # words in L0's source, from which L1's Linux reads, too
RNG = '-object rng-random,id=rng0,filename='

# In Linux
READ = ("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | "
        "hexdump -v -e '/1 \"%02x\"'; echo")
ONLINE = '/sys/devices/system/cpu/cpu1/online'


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


def l0_device(source):
    """The arguments of L0's QEMU for the device with this source."""
    return spapr_rng(f'rng-random,filename={source}')


@pytest.fixture(scope='module')
def l1_with(boot, source):
    """An L1 whose machine has the device."""
    return boot(*l0_device(source))


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
                'rm -f log* qmp* console* trace* state disk ram spin')


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


def test_snapshot(l1):
    """After loadvm, the call of the snapshot waits again."""
    l2 = waiting(l1)
    l1.sh(': >disk')
    format_disk(l2.qemu, 'disk')
    with within(HANG):
        hmp(l2.qemu, 'savevm saved')
    assert still_waits(l2)
    # The results of these words are not in the snapshot.
    l1.feed(100, 102)
    l2.finish()
    assert l2.count() == 2
    with within(HANG):
        hmp(l2.qemu, 'loadvm saved')
    give(l2)


def test_quit(l1):
    waiting(l1).quit()


def test_sigterm(l1):
    l2 = waiting(l1)
    l1.sh(f'kill $pid{l2.number}')
    l2.qemu.wait()
    assert l2.qemu.exitcode() == 0


def test_interrupts(l1):
    """Each vCPU takes decrementer interrupts while its call waits."""
    l2 = waiting(l1, interrupts=True)
    for cpu in range(l2.cpus):
        before = l2.get(cpu, TICKS)
        until(lambda: l2.get(cpu, TICKS) >= before + 20)
    give(l2)


def test_spinning(l1):
    """
    L1 gets its timer interrupts while a vCPU of L2 makes no hypercall.

    L0 is often late when it starts the vCPU: L1's timer has then expired.
    """
    # "b ." at the start address, 0x100
    spin = shell_bytes(bytes(0x100) + bytes.fromhex('48000000'))
    l1.sh(f'{spin} >spin')
    l2 = L2(l1, '-bios spin', f'{RNG}known', rng='rng0')
    [cpu] = l2.qemu.cmd('query-cpus-fast')
    l1.sh(f"taskset -p 2 {cpu['thread-id']}")

    def ticks():
        return int(l1.sh(
            "awk '/LOC:.*event device/ { print $3 }' /proc/interrupts")[-1])

    pid = l1.qemu.get_pid()
    for _ in range(10):
        for _ in range(50):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.006)
            os.kill(pid, signal.SIGCONT)
            time.sleep(random.uniform(0, 0.006))
        before = ticks()
        until(lambda: ticks() >= before + 50)
    assert l1.run("dmesg | grep 'hard LOCKUP'")[0] == []
    l2.quit()


def test_pace(l1):
    """
    A vCPU that takes interrupts tries its call more often than another vCPU.

    KVM may have an interrupt for vCPU 0. vCPU 1 takes no interrupts, and sleeps
    for 20 ms after each try. A try is cheap: QEMU reads and writes a few
    registers. To synchronize the vCPU takes 240 ioctls.
    """
    l2 = waiting(l1, '-trace kvm_run_exit -trace kvm_vcpu_ioctl',
                 interrupts=True, undisturbed=[1])

    def tries(cpu):
        return l2.count_traced(f'cpu_index {cpu}, reason {KVM_EXIT_PAPR_HCALL}')

    def ioctls():
        return l2.count_traced('kvm_vcpu_ioctl cpu_index 1, .*')

    start, before, ioctls_before = time.monotonic(), tries(1), ioctls()
    until(lambda: tries(1) >= before + 50)
    until(lambda: tries(0) > 1.5 * tries(1))
    more_ioctls = ioctls() - ioctls_before
    count = tries(1) - before
    assert count <= (time.monotonic() - start) / 0.020 + 1
    assert more_ioctls <= 3 * count + 3
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
    l2 = LinuxL2(l1, '-device spapr-rng,use-kvm=true')
    assert l2.sh(f'cat {CURRENT}') == ['pseries_rng']
    words = struct.unpack('<8Q', bytes.fromhex(l2.sh(READ)[0]))
    check_in_order([words], WORDS)
    l2.quit()


def linux_on_two(l1, *args, cpus='2'):
    """Start Linux with two sources. The second one gives nothing."""
    l1.sh('timeout 0.1 cat fifo >/dev/null; true')
    return LinuxL2(l1, f'{RNG}/dev/urandom',
                   '-object rng-random,id=dry,filename=fifo', '-device',
                   device(rng='rng0', timeout=0, pool_size=8,
                          health_test='off'), *args,
                   cpus=cpus)


def check_interrupts(l2, count):
    """
    CPU 1 answers all interrupts of CPU 0 while it waits for a random number.

    CPU 0 waits for each answer. CPU 1 goes on waiting.
    """
    # Linux's own thread reads, too. CPU 0 must not wait because of that thread.
    l2.sh('taskset -p 2 $(pidof hwrng)')
    l2.type(f'/ipi-times {count} /dev/hwrng')
    l2.lines_until('ready')
    # It may be Linux's own thread that waits first, and keeps the lock.
    waits = statistic(l2, 'waits')
    set_property(l2, 'rng', 'dry')
    l2.type('')
    until(lambda: statistic(l2, 'waits') > waits)
    l2.type('')
    times = l2.lines_until('median')[-1]
    assert re.fullmatch(r'median \d+ worst \d+ busy', times)


@pytest.mark.parametrize('ic_mode', ['xics', 'xive'])
def test_interrupts_of_others(l1, ic_mode):
    """KVM emulates the interrupt controller XICS, QEMU emulates XIVE."""
    l2 = linux_on_two(l1, f'-machine ic-mode={ic_mode}')
    # The times without a call that waits, for comparison in the output
    l2.type('/ipi-times 100')
    l2.lines_until('ready')
    l2.type('')
    l2.sh('')
    check_interrupts(l2, 100)
    l1.feed(0, 64)  # more than 64 bytes, as Linux's own thread reads, too
    assert l2.answer() == []
    l2.quit()


def test_unplug(boot):
    """
    A vCPU is unplugged while its call waits, or when the call was answered.

    The newest kernel can move the caller to the other vCPU, where its call goes
    on waiting. Older kernels cannot. They may even wait for ever during an
    unplug: swake_up_one_online() waits for a vCPU that waits for a lock of the
    vCPU that is unplugged.
    """
    kernel = KERNELS[-1]
    l1 = boot(kernel=kernel)
    l2 = linux_on_two(l1, cpus='1,maxcpus=2')
    l2.qemu.cmd('device_add', driver='host-spapr-cpu-core', id='core',
                core_id=1)
    l2.sh(f'until grep -qx 1 {ONLINE}; do sleep 0.1; done')
    check_interrupts(l2, 1)
    l2.qemu.cmd('device_del', id='core')

    def vcpus():
        return len(l2.qemu.cmd('query-cpus-fast'))

    if kernel == 'newest':
        until(lambda: vcpus() == 1)
    else:
        time.sleep(0.5)
        assert vcpus() == 2
    l1.feed(0, 64)
    assert l2.answer() == []
    until(lambda: vcpus() == 1)
    assert 'DEVICE_DELETED' in l2.qemu.events
    assert l2.sh('cat /sys/devices/system/cpu/online') == ['0']

    l2.type(READ)
    l1.feed(64, 128)
    assert len(bytes.fromhex(l2.answer()[0])) == 64
    l2.quit()


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


@pytest.mark.parametrize('of_l0', ['spapr-rng', 'virtio-rng-pci'])
def test_generator_of_l1(boot, of_l0, capsys):
    """L1's /dev/hwrng, which L0 limits, is a real slow source of L2."""
    l1 = boot('-object', 'rng-random,filename=/dev/urandom,id=rng0',
              '-device', f'{of_l0},rng=rng0,max-bytes=100,period=50')
    if of_l0 != 'spapr-rng':
        l1.sh(VIRTIO)
    l2 = L2(l1, f'{RNG}/dev/hwrng', rng='rng0', timeout=0)
    size = 4096

    def run():
        begin, end = l1.sh(
            'cut -d " " -f 1 /proc/uptime; dd if=/dev/hwrng of=/dev/null '
            f'bs=64 count={size // 64} 2>/dev/null; cut -d " " -f 1 '
            '/proc/uptime')
        plain = float(end) - float(begin)
        l2.call(size // 8)
        l2.qemu.cmd('query-status')
        assert not l2.done(0)
        l2.finish()
        with capsys.disabled():
            print(f'\n{of_l0}: {size / l2.seconds():.0f} bytes/s, dd in L1 '
                  f'{size / plain:.0f}', end=' ')
        return plain / l2.seconds()

    assert best_run(run, 0.9) >= 0.9
    l2.call(10 ** 6, record=False)
    l2.qemu.cmd('query-status')
    l2.quit()
    l1.qemu.shutdown(hard=True)


def test_no_generator(l1_without):
    """Without a generator in KVM, the error says what to do."""
    lines, status = l1_without.run_qemu(
        '-bios image -device spapr-rng,use-kvm=true')
    assert status == 1
    assert lines == [
        'qemu: -device spapr-rng,use-kvm=true: the kernel has no random '
        'number generator for guests',
        'Give a backend with rng=ID, which then serves the guest.']


def test_no_generator_but_backend(l1_without):
    """Without a generator in KVM, the backend serves, with one warning."""
    check_backend_serves(
        l1_without,
        'qemu: -device spapr-rng,id=hrandom,health-test=off,rng=rng0,'
        'use-kvm=true: warning: '
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
        'qemu: -device spapr-rng,id=hrandom,health-test=off,rng=rng0,'
        'use-kvm=true: warning: '
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
        'Give a backend with rng=ID, which then serves the guest.']


@pytest.mark.parametrize('cpu,kernel', [
    ('POWER9', '6.12'), ('POWER10', '6.1'),
    *(('POWER10', kernel) for kernel in KERNELS[1:])])
def test_elsewhere(boot, source, cpu, kernel):
    """KVM serves the guest on other processors and kernels, too."""
    check_kernel_serves(boot(*l0_device(source), cpu=cpu, kernel=kernel))


@pytest.mark.parametrize('kernel', KERNELS[1:])
def test_second_api(boot, source, kernel):
    """The nested API v2 of PAPR works, which newer kernels prefer."""
    l1 = boot(*l0_device(source), cpu='POWER10', kernel=kernel, api='papr')
    check_kernel_serves(l1)
    check_backend_serves(l1)
    l2 = waiting(l1)
    with within(HANG):
        l2.qemu.cmd('stop')
    with within(HANG):
        l2.qemu.cmd('cont')
    give(l2)
    waiting(l1).quit()
