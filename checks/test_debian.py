# SPDX-License-Identifier: GPL-2.0-or-later
"""The device in a whole Debian: systemd, udev, sshd, rngd and kexec use it."""

import re
import shlex
import socket
import time

import pytest

from testlib import TOP
from testlib.debian import (FULL, LONG, USER_NETWORK, Debian, debian_args,
                            new_disk)
from testlib.egd import EgdDaemon
from testlib.limits import until
from testlib.linux import CURRENT
from testlib.machine import machine, migration, spapr_rng, statistic

pytestmark = pytest.mark.debian

MANUAL = (TOP / 'docs/system/ppc/spapr-rng.rst').read_text()
DRIVER = '/sys/bus/vio/drivers/pseries_rng'
NAME = 'ibm,random-v1'

# A process that reads all the time, and adds a line to one file for each read
# that succeeds, and to another file for each read that fails.
READER = ('while :; do '
          'if dd if=/dev/hwrng of=/dev/null bs=4096 count=4 iflag=fullblock; '
          'then echo >>/run/read; else echo >>/run/failed; sleep 0.1; fi; '
          'done >/dev/null 2>&1 & echo $! >/run/reader')
SIZE = 65536
READ = f'test $(head -c {SIZE} /dev/hwrng | wc -c) -eq {SIZE}'

# The events that udev also handles for each device at boot
TRIGGER = 'udevadm trigger --settle --action=add --subsystem-match=vio'


def boot_debian(directory, *args, append='', cpus=2, disk=None, **kwargs):
    """Boot a Debian; without `disk`, with a new disk."""
    vm = machine(directory, *debian_args(disk or new_disk(directory),
                                         directory / 'console', append),
                 '-smp', str(cpus), *args, build=FULL)
    try:
        return Debian(vm, **kwargs)
    except BaseException:
        vm.shutdown(hard=True)
        raise


@pytest.fixture
def boot(tmp_path):
    """A function that boots a Debian, which ends with the test."""
    guests = []

    def start(*args, name='first', **kwargs):
        directory = tmp_path / name
        directory.mkdir()
        guests.append(boot_debian(directory, *args, **kwargs))
        return guests[-1]

    yield start
    for guest in guests:
        guest.qemu.shutdown(hard=True)


@pytest.fixture(scope='module')
def booted(tmp_path_factory):
    """A Debian for several tests, whose kernel traces who loads modules."""
    guest = boot_debian(
        tmp_path_factory.mktemp('booted'), *spapr_rng(), *USER_NETWORK,
        append='trace_event=module:module_load,module:module_request')
    yield guest
    guest.qemu.shutdown(hard=True)


@pytest.fixture
def debian(booted):
    """The Debian for several tests, without a reader, for one test.

    rngd feeds the kernel each second.
    """
    feed_each_second(booted)
    yield booted
    booted.run('kill $(cat /run/reader); rm -f /run/reader /run/read '
               '/run/failed')
    booted.assert_no_trouble()


def feed_each_second(guest):
    """Have rngd feed the kernel each second, even if it has enough entropy.

    By default, rngd then feeds the kernel once a minute.
    """
    guest.text("printf '%s\\n' HRNGDEVICE=/dev/hwrng "
               "'RNGDOPTIONS=\"--feed-interval=1 --random-step=2500\"' "
               '>/etc/default/rng-tools-debian; '
               'systemctl restart rng-tools-debian', LONG)


def fed(guest):
    """The bits that rngd got from the device, and that it gave the kernel."""
    def told():
        return guest.text('journalctl -q -o cat -t rngd | grep -o '
                          "'bits .*: [0-9]*' || true").splitlines()

    before = len(told())
    guest.text('kill -USR1 $(pidof rngd)')
    until(lambda: len(told()) >= before + 2, LONG)
    got, = [line for line in told()[before:] if 'received from HRNG' in line]
    sent, = [line for line in told()[before:] if 'sent to kernel' in line]
    return int(got.split()[-1]), int(sent.split()[-1])


def lines(guest, path):
    """How many lines a file in the guest has."""
    return int(guest.text(f'cat {path} 2>/dev/null | wc -l'))


def until_more(guest, path):
    """Wait until the file has at least two more lines."""
    before = lines(guest, path)
    until(lambda: lines(guest, path) > before + 1, LONG)


def flow_again(egd):
    """Restart the daemon: what it ignored, it would never answer."""
    egd.stop()
    egd.silent = False
    egd.start()


def show(capsys, text):
    """Print a figure that is not checked."""
    with capsys.disabled():
        print(f'\n{text}')


def test_udev_loads_the_driver(debian):
    """udev loads the driver by its modalias; nothing else loads it."""
    trace = debian.text('mountpoint -q /sys/kernel/tracing || '
                        'mount -t tracefs none /sys/kernel/tracing; '
                        'cat /sys/kernel/tracing/trace')
    loaded = dict(reversed(pair) for pair in re.findall(
        r'^ *(\S.*)-\d+ .* module_load: (\w+)', trace, re.MULTILINE))
    assert 'udev' in loaded['pseries_rng']
    assert 'pseries' not in ''.join(re.findall('module_request: .*', trace))
    assert debian.run(
        'grep -rs pseries /etc/modules /etc/modules-load.d '
        '/usr/lib/modules-load.d /etc/initramfs-tools') == ([], 1)
    assert debian.text(
        f'modprobe -R $(cat /sys/bus/vio/devices/{NAME}/modalias)'
    ) == 'pseries_rng'

    # Without udev's rule for modaliases, nothing loads the driver.
    rules = '/etc/udev/rules.d/80-drivers.rules'
    for rule, modules in [f'ln -s /dev/null {rules}', 0], [f'rm {rules}', 1]:
        debian.text(f'rmmod pseries_rng; {rule} && udevadm control --reload '
                    f'&& {TRIGGER}', LONG)
        assert debian.text('grep -c ^pseries_rng /proc/modules || true'
                           ) == str(modules)


def test_current(debian):
    assert debian.text(f'cat {CURRENT}') == 'pseries_rng'
    before = statistic(debian, 'bytes')
    debian.text(READ)
    assert statistic(debian, 'bytes') >= before + SIZE


def test_rngd(debian):
    """rngd feeds the kernel with bytes of the device."""
    assert '/dev/hwrng' in debian.text(
        'readlink /proc/$(pidof rngd)/fd/*').splitlines()
    before = statistic(debian, 'bytes')
    first = fed(debian)
    until(lambda: fed(debian)[1] >= first[1] + 100000, LONG)
    got, _ = fed(debian)
    assert statistic(debian, 'bytes') - before >= (got - first[0]) / 8 > 0


def test_rngd_is_started_again(boot, tmp_path):
    """With the manual's drop-in, rngd survives a source that gives nothing."""
    egd = EgdDaemon(tmp_path / 'egd')
    egd.start()
    backend, *args = egd.backend('reconnect-ms=100')
    guest = boot(*args, *spapr_rng(backend, timeout=1000))
    unit, = re.findall(r'^   (\[Service\]\n(?:   .*\n)+)', MANUAL, re.M)
    directory = '/etc/systemd/system/rng-tools-debian.service.d'
    guest.text(f"mkdir {directory}; printf '%s\\n' "
               f"{shlex.join(unit.split())} >{directory}/restart.conf; "
               'systemctl daemon-reload', LONG)
    feed_each_second(guest)
    egd.silent = True
    guest.until('test $(systemctl show -P NRestarts rng-tools-debian) -gt 0')
    flow_again(egd)
    before = statistic(guest, 'bytes')
    guest.until('systemctl is-active rng-tools-debian')
    until(lambda: fed(guest)[1] >= 100000, LONG)
    assert statistic(guest, 'bytes') > before
    guest.assert_no_trouble()
    egd.stop()


def test_rngtest(debian, capsys):
    """0.8 failures are expected; more than 8 are practically impossible."""
    said = debian.run('rngtest -c 1000 </dev/hwrng 2>&1', LONG)[0]
    results = dict(re.findall(r'FIPS 140-2 (\w+): (\d+)', '\n'.join(said)))
    show(capsys, results)
    assert int(results['successes']) + int(results['failures']) == 1000
    assert int(results['failures']) <= 8


def test_reseed(debian):
    """Linux knows the manual's command for guests restored from one state."""
    command, = re.findall('^ +# (perl .*)$', MANUAL, re.M)
    debian.text(command)


def test_two_readers(debian):
    """Two readers get different words."""
    debian.text(
        'for i in 1 2; do head -c 131072 /dev/hwrng >/run/read$i & '
        'pids="$pids $!"; done; wait $pids; cat /run/read[12] >/run/both',
        LONG)
    assert debian.text('wc -c </run/both') == '262144'
    assert debian.text('od -An -v -t x8 -w8 /run/both | sort | uniq -d', LONG
                       ) == ''


def test_unbind_while_a_reader_runs(debian):
    """Reads fail without the driver, and succeed when it is bound again."""
    debian.text(READER)
    for _ in range(5):
        until_more(debian, '/run/read')
        debian.text(f'echo {NAME} >{DRIVER}/unbind', LONG)
        assert debian.text(f'cat {CURRENT}') == 'none'
        until_more(debian, '/run/failed')
        debian.text(f'echo {NAME} >{DRIVER}/bind', LONG)
        assert debian.text(f'cat {CURRENT}') == 'pseries_rng'
    until_more(debian, '/run/read')


def test_stop_for_a_minute(debian):
    """After a stop of a minute, the reader and rngd continue."""
    debian.text(READER)
    until_more(debian, '/run/read')
    before = fed(debian)
    debian.qemu.cmd('stop')
    calls = statistic(debian, 'calls')
    time.sleep(60)
    assert statistic(debian, 'calls') == calls
    debian.qemu.cmd('cont')
    until_more(debian, '/run/read')
    until(lambda: fed(debian)[1] > before[1], LONG)
    assert lines(debian, '/run/failed') == 0


def test_host_keys(boot):
    """Each first boot of the same disk makes different keys."""
    own = []
    for name in 'first', 'second':
        with socket.create_server(('127.0.0.1', 0)) as free:
            port = free.getsockname()[1]
        guest = boot(*spapr_rng(), '-nic', 'user,'
                     f'hostfwd=tcp:127.0.0.1:{port}-:22', name=name)
        with socket.create_connection(('127.0.0.1', port), LONG) as ssh:
            assert ssh.recv(8) == b'SSH-2.0-'
        own += guest.text('cut -d " " -f 2 /etc/ssh/ssh_host_*_key.pub '
                          '/etc/machine-id').splitlines()
        guest.quit()
    assert len(own) == len(set(own)) == 8


def test_systemd_analyze(boot, capsys):
    """The boot time with and without the device.

    The time counts instructions, so that it does not depend on the load of the
    host.
    """
    for name, args in ('without', []), ('with', [*spapr_rng()]):
        guest = boot(*args, *USER_NETWORK, '-icount', 'shift=0,sleep=off',
                     cpus=1, name=name)
        assert guest.text(f'cat {CURRENT}') == (
            'pseries_rng' if args else 'none')
        times = guest.text('systemd-analyze | head -n 1', LONG)
        assert re.match(r'Startup finished in .* \(userspace\) = ', times)
        show(capsys, f'{guest.text("cat /boot/version")}, {name} the device: '
             f'{times}')
        guest.quit()


@pytest.mark.parametrize('flows', [True, False], ids=['flows', 'dry'])
def test_rmmod_while_a_read_waits(boot, tmp_path, flows):
    """rmmod and the read end when a dry source has data, or at the timeout."""
    egd = EgdDaemon(tmp_path / 'egd')
    egd.start()
    backend, *args = egd.backend('reconnect-ms=100')
    guest = boot(*args, *spapr_rng(backend, pool_size=8,
                                   timeout=0 if flows else 5000))
    guest.text('systemctl stop rng-tools-debian', LONG)
    guest.until(READ)
    waits, timeouts = (statistic(guest, name)
                       for name in ('waits', 'timeouts'))
    egd.silent = True
    guest.text('(head -c 8192 /dev/hwrng; echo $? >/run/done) '
               '>/dev/null 2>&1 &')
    until(lambda: statistic(guest, 'waits') > waits)
    guest.type('rmmod pseries_rng')
    if flows:
        time.sleep(1)
        assert guest.waits()
        flow_again(egd)
    assert guest.answer(LONG) == ([], 0)
    guest.until('test -e /run/done')
    assert (statistic(guest, 'timeouts') > timeouts) != flows
    assert guest.text(f'cat {CURRENT}') == 'none'

    if not flows:
        flow_again(egd)
    guest.text(TRIGGER, LONG)
    guest.until(READ)
    guest.assert_no_trouble()
    egd.stop()


def test_switching(boot):
    """Switching between the device and virtio-rng lets no read fail."""
    guest = boot(*spapr_rng(), '-device', 'virtio-rng-pci,rng=rng0')
    guest.text(READER)
    for _ in range(10):
        for current in 'virtio_rng.0', 'pseries_rng':
            guest.text(f'echo {current} >{CURRENT}', LONG)
            assert guest.text(f'cat {CURRENT}') == current
            until_more(guest, '/run/read')
    assert lines(guest, '/run/failed') == 0
    guest.text('kill $(cat /run/reader)')

    for current, least, most in [['pseries_rng', SIZE, SIZE + 16384],
                                 ['virtio_rng.0', 0, 16384]]:
        guest.text(f'echo {current} >{CURRENT}; {READ}')
        before = statistic(guest, 'bytes')
        guest.text(READ)
        assert least <= statistic(guest, 'bytes') - before <= most
    guest.assert_no_trouble()


def test_kexec(boot):
    """The kernel that kexec starts has H_RANDOM, too."""
    guest = boot(*spapr_rng(), *USER_NETWORK)
    before = guest.boot_id()
    guest.text('kexec -l /boot/vmlinux --initrd=/boot/initrd '
               '--command-line="$(cat /proc/cmdline)"', LONG)
    guest.type('systemctl kexec')
    guest.wait_until_ready()
    assert guest.resets() == 0
    assert guest.boot_id() != before
    assert guest.text(f'cat {CURRENT}') == 'pseries_rng'
    calls = statistic(guest, 'calls')
    guest.text(READ)
    assert statistic(guest, 'calls') >= calls + SIZE / 8
    guest.assert_no_trouble()


def test_reboot(boot):
    """Ten reboots work, and keep the ssh keys of the first boot."""
    guest = boot(*spapr_rng(), *USER_NETWORK)
    keys = guest.text('cat /etc/ssh/ssh_host_*_key.pub')
    ids = {guest.boot_id()}
    for _ in range(10):
        guest.type('systemctl reboot')
        guest.wait_until_ready()
        assert guest.resets() == 1
        ids.add(guest.boot_id())
        assert guest.text(f'cat {CURRENT}') == 'pseries_rng'
        guest.text(READ)
        guest.assert_no_trouble()
    assert len(ids) == 11
    assert guest.text('cat /etc/ssh/ssh_host_*_key.pub') == keys


def test_live_migration(boot, tmp_path):
    """Live migration, with rngd and a reader that reads all the time."""
    args = [*spapr_rng(), *USER_NETWORK]
    guest = boot(*args)
    feed_each_second(guest)
    guest.text(READER)
    until_more(guest, '/run/read')
    before = fed(guest)

    other = boot(*args, name='second', disk=tmp_path / 'first/disk',
                 incoming=f'unix:{tmp_path}/socket')
    # The downtime must not keep the migration of a slow host from ending.
    guest.qemu.cmd('migrate-set-parameters', downtime_limit=60000)
    guest.qemu.cmd('migrate', uri=f'unix:{tmp_path}/socket')
    until(lambda: migration(guest.qemu) == 'completed', LONG)
    until(lambda: other.qemu.cmd('query-status')['status'] == 'running', LONG)
    guest.quit()

    until_more(other, '/run/read')
    until(lambda: fed(other)[1] > before[1], LONG)
    assert lines(other, '/run/failed') == 0
    assert statistic(other, 'calls') > 0
    other.assert_no_trouble()
