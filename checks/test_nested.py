# SPDX-License-Identifier: GPL-2.0-or-later
"""The device under KVM, in a nested guest (L2), and KVM's own H_RANDOM."""

import contextlib
import os
import random
import signal
import struct
import time

import pytest

from testlib import KERNELS
from testlib.bare_metal import source_bytes, word
from testlib.hcalls import H_HARDWARE, H_SUCCESS, INTERRUPTS, TICKS
from testlib.limits import until
from testlib.linux import CURRENT, read_hwrng
from testlib.machine import (device, format_disk, hmp, set_property,
                             spapr_rng, statistic)
from testlib.nested import KNOWN, L1, L2, LinuxL2, shell_bytes
from testlib.sources import random_backend

KVM_EXIT_PAPR_HCALL = 19    # from linux/kvm.h
WORDS = 1024    # words in L0's source, from which L1's Linux reads, too
INDEX = {word(i): i for i in range(2 * WORDS)}
RNG = '-object rng-random,id=rng0,filename='
ONLINE = '/sys/devices/system/cpu/online'


@pytest.fixture(scope='module')
def boot(image, tmp_path_factory):
    """A function that boots an L1, with further arguments for L0's QEMU."""
    with contextlib.ExitStack() as machines:
        def start(*args, **kwargs):
            l1 = L1(tmp_path_factory.mktemp('nested'), image, *args, **kwargs)
            machines.callback(l1.qemu.shutdown, hard=True)
            return l1

        yield start


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """The file that is L0's source."""
    path = tmp_path_factory.mktemp('source') / 'source'
    path.write_bytes(source_bytes(0, WORDS))
    return path


@pytest.fixture(scope='module')
def l1_with(boot, source):
    """An L1 whose machine has the device."""
    return boot(*spapr_rng(random_backend(source)))


@pytest.fixture
def l1(l1_with):
    """The L1 that most tests share. Each test starts its own L2."""
    yield l1_with
    l1_with.run('kill -9 $pid; wait $pid; tail -n 20 log; '
                'timeout 0.1 cat fifo >/dev/null')


def on_fifo(l1, *args, timeout=0, **kwargs):
    """Start an L2 whose source gets what feed() writes."""
    return L2(l1, f'{RNG}fifo', *args, cpus=2, rng='rng0', timeout=timeout,
              **kwargs)


def check_in_order(*values):
    """
    Check that the values of all vCPUs are different words of the source.

    The words of each vCPU must be in order. Returns the indices of the words.
    """
    indices = [[INDEX[value] for value in got] for got in values]
    assert indices == [sorted(got) for got in indices]
    indices = sum(indices, [])
    assert len(set(indices)) == len(indices)
    return indices


def check_backend_serves(l1, why='', wrapper=''):
    """Each call exits, and gets the next word. QEMU warns why KVM cannot."""
    l2 = L2(l1, f'{RNG}known', cpus=2, wrapper=wrapper, rng='rng0',
            use_kvm='true' if why else 'false')
    assert not statistic(l2, 'in-kernel')
    calls = KNOWN // 4
    l2.call(calls)
    l2.finish()
    indices = check_in_order(l2.values(0), l2.values(1))
    assert sorted(indices) == list(range(2 * calls))
    # A call that waits exits more than once.
    assert l2.exits() >= statistic(l2, 'calls') == 2 * calls
    assert l2.log() == (
        why and 'qemu: -device spapr-rng,id=hrandom,health-test=off,rng=rng0,'
        f'use-kvm=true: warning: spapr-rng: {why}; '
        "the backend 'rng0' serves the guest")
    l2.quit()


def test_commands(l1):
    """
    A call that waits goes on waiting after a stop, and a migration.

    The program repeats its call after a reset, and makes the call of a
    snapshot.
    """
    l2 = on_fifo(l1)
    l2.begin()
    l2.qemu.cmd('stop')
    l2.qemu.cmd('cont')
    assert l2.calls_wait()
    l2.reset()
    assert l2.calls_wait()
    l1.sh(': >disk')
    format_disk(l2.qemu, 'disk')
    hmp(l2.qemu, 'savevm saved')
    assert l2.calls_wait()
    # The results of these words are not in the snapshot.
    l1.feed(100, 102)
    l2.finish()
    assert l2.count() == 2
    hmp(l2.qemu, 'loadvm saved')
    assert l2.calls_wait()
    l2.save('state')
    l2.quit()
    assert l2.count() == 0
    l2 = on_fifo(l1, incoming=True)
    l2.restore('state')
    l2.qemu.cmd('stop')
    l1.feed(0, 2)
    assert l2.calls_wait()
    l2.qemu.cmd('cont')
    l2.gets_a_word_each()


def test_spinning(l1):
    """
    L1 gets its timer interrupts while a vCPU of L2 makes no hypercall.

    L0 is often late when it starts the vCPU: L1's timer has then expired.
    """
    # "b ." at the start address, 0x100
    l1.sh(shell_bytes(bytes(0x100) + bytes.fromhex('48000000')) + ' >spin')
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


def test_interrupts(l1):
    """
    A vCPU takes interrupts while its call waits, and tries it more often.

    KVM may have an interrupt for vCPU 0. vCPU 1 takes no interrupts, and
    sleeps for 20 ms after each try. A try is cheap: QEMU reads and writes a
    few registers. To synchronize the vCPU takes 240 ioctls.
    """
    l2 = on_fifo(l1, '-trace kvm_run_exit -trace kvm_vcpu_ioctl')
    l2.set(0, INTERRUPTS, 1)
    l2.reset()
    l2.begin()

    def tries(cpu):
        return l2.count_traced(
            f'cpu_index {cpu}, reason {KVM_EXIT_PAPR_HCALL}')

    def ioctls():
        return l2.count_traced('kvm_vcpu_ioctl cpu_index 1, .*')

    start, before, ioctls_before = time.monotonic(), tries(1), ioctls()
    ticks = l2.get(0, TICKS)
    until(lambda: tries(1) >= before + 50)
    until(lambda: tries(0) > 1.5 * tries(1))
    until(lambda: l2.get(0, TICKS) >= ticks + 20)
    more_ioctls = ioctls() - ioctls_before
    count = tries(1) - before
    assert count <= (time.monotonic() - start) / 0.020 + 1
    assert more_ioctls <= 3 * count + 3
    assert l2.calls_wait()
    l1.feed(0, 2)
    l2.gets_a_word_each()


def test_timeout(l1):
    l2 = on_fifo(l1, timeout=2000)
    l2.call()
    l2.finish()
    assert [l2.results(cpu)[0][0] for cpu in range(2)] == [H_HARDWARE] * 2
    assert 1.9 < l2.seconds((0, 1))
    l1.feed(0, 4)
    l2.call_until_success()


def test_linux(l1):
    """Linux as L2 uses the device by itself, and gets L0's words."""
    l2 = LinuxL2(l1, '-device spapr-rng,use-kvm=true')
    assert l2.sh(f'cat {CURRENT}') == ['pseries_rng']
    read, = l2.sh(read_hwrng(64))
    check_in_order(struct.unpack('<8Q', bytes.fromhex(read)))
    l2.quit()


def linux_on_two(l1, *args, cpus='2'):
    """Start Linux with two sources. The second one gives nothing."""
    return LinuxL2(l1, f'{RNG}/dev/urandom',
                   '-object rng-random,id=dry,filename=fifo', '-device',
                   device(rng='rng0', timeout=0, pool_size=8,
                          health_test='off'), *args,
                   cpus=cpus)


def check_interrupts(l2, count):
    """
    CPU 1 answers all interrupts of CPU 0 while it waits for a random number.

    CPU 0 interrupts CPU 1 and waits for the answer by each read of one of
    CPU 1's registers. CPU 1 goes on waiting.
    """
    # Linux's own thread reads, too. It must not keep CPU 0 from running.
    l2.sh('taskset -p 2 $(pidof hwrng); taskset -p 1 $$; mkfifo go')
    l2.sh('(read -r x <go && read -rn 1 x </dev/hwrng && : >over) & '
          'taskset -p 2 $!')
    # Linux draws random numbers whenever it starts a program: from here on,
    # use only the shell's own commands. It may be Linux's own thread that
    # waits first, and keeps the lock.
    waits = statistic(l2, 'waits')
    set_property(l2, 'rng', 'dry')
    l2.sh('echo >go')
    until(lambda: statistic(l2, 'waits') > waits)
    l2.sh(f'i=0; while [ $((i += 1)) -le {count} ]; do '
          'read -r x </sys/devices/system/cpu/cpu1/purr || break; '
          f'done; [ $i -gt {count} ] && [ ! -e over ]')
    l2.type('wait $!')


@pytest.mark.parametrize('ic_mode', ['xics', 'xive'])
def test_interrupts_of_others(l1, ic_mode):
    """KVM emulates the interrupt controller XICS, QEMU emulates XIVE."""
    l2 = linux_on_two(l1, f'-machine ic-mode={ic_mode}')
    check_interrupts(l2, 100)
    l1.feed(0, 64)  # more than 64 bytes, as Linux's own thread reads, too
    assert l2.answer() == ([], 0)
    l2.quit()


def test_unplug(boot):
    """
    A vCPU is unplugged while its call waits, or when the call was answered.

    The newest kernel can move the caller to the other vCPU, where its call
    goes on waiting. Older kernels cannot. They may even wait for ever during
    an unplug: swake_up_one_online() waits for a vCPU that waits for a lock of
    the vCPU that is unplugged.
    """
    kernel = KERNELS[-1]
    l1 = boot(kernel=kernel)
    l2 = linux_on_two(l1, cpus='1,maxcpus=2')
    l2.qemu.cmd('device_add', driver='host-spapr-cpu-core', id='core',
                core_id=1)
    l2.sh(f'until grep -qx 0-1 {ONLINE}; do sleep 0.1; done')
    check_interrupts(l2, 1)
    l2.qemu.cmd('device_del', id='core')

    def vcpus():
        return len(l2.qemu.cmd('query-cpus-fast'))

    if kernel == 'newest':
        until(lambda: vcpus() == 1)
    l1.feed(0, 64)
    assert l2.answer() == ([], 0)
    until(lambda: vcpus() == 1)
    assert l2.sh(f'cat {ONLINE}') == ['0']

    l2.type('dd if=/dev/hwrng of=/dev/null bs=64 count=1 2>/dev/null')
    l1.feed(64, 128)
    assert l2.answer() == ([], 0)
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
    check_in_order(good)

    with open(source, 'ab') as file:
        file.write(source_bytes(WORDS, 2 * WORDS))
    l2.call_until_success()
    check_in_order(l2.results()[-1][1:])


def test_no_generator(boot):
    """Without a generator in KVM, a backend serves, if there is one."""
    l1 = boot()
    why = 'the kernel has no random number generator for guests'
    check_backend_serves(l1, why)
    command = f'{l1.l2_command} -bios image -device spapr-rng,use-kvm=true'
    assert l1.run(f'{command} 2>&1') == ([
        f'qemu: -device spapr-rng,use-kvm=true: {why}',
        'Give a backend with rng=ID, which then serves the guest.'], 1)


def test_enabling_fails(l1):
    """The kernel has a generator, but does not let QEMU enable it."""
    l2 = L2(l1, f'{RNG}known', rng='rng0')
    fd, = l1.sh('ls -l /proc/$pid/fd | '
                "sed -n 's/.* \\([0-9]*\\) -> .*kvm-vm.*/\\1/p'")
    l2.quit()
    # The number is the same if QEMU opens the same files.
    check_backend_serves(
        l1, 'the kernel does not let QEMU enable its H_RANDOM',
        wrapper=f'./deny-enable-cap {fd}')


@pytest.mark.parametrize('kernel, api', [
    ('6.1', 'hv'), *((kernel, 'papr') for kernel in KERNELS[1:])])
def test_elsewhere(boot, source, kernel, api):
    """
    KVM serves calls without an exit to QEMU; without use-kvm, a backend does.

    Another processor; newer kernels with the API v2, which they prefer.
    """
    l1 = boot(*spapr_rng(random_backend(source)), cpu='POWER10',
              kernel=kernel, api=api)
    l2 = on_fifo(l1, use_kvm='true')
    assert statistic(l2, 'in-kernel')
    l2.call(16)
    l2.finish()
    # L1's Linux took some of the words.
    assert len(check_in_order(l2.values(0), l2.values(1))) == 32
    assert l2.exits() == statistic(l2, 'calls') == 0
    assert l2.count_traced('spapr_rng_in_kernel enabled (0)') == 1
    assert l2.log() == ''
    l2.quit()

    check_backend_serves(l1)
    l2 = on_fifo(l1)
    l2.begin()
    l2.qemu.cmd('stop')
    l2.qemu.cmd('cont')
    assert l2.calls_wait()
    l1.feed(0, 2)
    l2.gets_a_word_each()
    l2.begin()
    l2.quit()
