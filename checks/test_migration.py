# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration of a Linux guest between this device, QEMU's own, and none."""

import time

import pytest

from testlib import OUT, TOP
from testlib.limits import until
from testlib.linux import Guest, linux_args
from testlib.machine import spapr_rng
from testlib.programs import run

DEVICE = spapr_rng()

# The machines: "ours" is this QEMU, "peer" QEMU with its own device. "7.2" is
# Debian 12's QEMU, and the machine type of that.
ENDS = {'ours': ('native', DEVICE), 'ours-without': ('native', []),
        'peer': ('peer/native', DEVICE), 'peer-without': ('peer/native', []),
        '7.2': (None, DEVICE), 'ours-7.2': ('native', DEVICE)}
LISTING = 'ours', 'ours-7.2'    # These list hcall-random for their guests.

# A process on the first vCPU that reads until a read fails, which lets the
# second vCPU be idle
READER = ("taskset 1 sh -c 'while dd if=/dev/hwrng bs=64 count=1; do :; done' "
          '>/dev/null 2>&1 &')
READ = 'dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c'
LISTED = "grep -q hcall-random /proc/device-tree/rtas/ibm,hypertas-functions"
NODE = '/proc/device-tree/ibm,platform-facilities/ibm,random-v1'

# QEMU 10.2 and later, also with their own device, stop vCPU 0 of a guest of an
# older QEMU if it is idle: cpu_post_load() takes PSSCR[EC], which the vCPU
# that boots always has, for the sign of a stopped vCPU.
LOSES_VCPU_0 = 'without migrated-vcpus' in (
    OUT / 'qemu/.git/adapt').read_text()


def qemu_7_2():
    """Debian 12's QEMU with its libraries, as arguments of machine()."""
    root = TOP / 'build/qemu-7.2'
    if not root.exists():
        arch = run('dpkg', '--print-architecture').stdout.strip()
        done = run(TOP / 'scripts/fetch', 'QEMU 7.2', root, arch, 'bookworm',
                   'apt-get -qq -y --download-only --no-install-recommends '
                   '-o Dir::Cache::Archives=$PWD install qemu-system-ppc; '
                   'for deb in *.deb; do dpkg-deb -x $deb .; rm $deb; done')
        if done.returncode:
            pytest.skip(done.stderr)
    loader, = root.glob('lib*/ld-linux*.so*')
    libraries = ':'.join(map(str, [*root.glob('lib/*-linux-gnu*'),
                                   *root.glob('usr/lib/*-linux-gnu*')]))
    return {'build': root / 'usr/bin',
            'wrapper': (str(loader), '--library-path', libraries)}


@pytest.fixture
def start(pseries, tmp_path):
    """A function that starts a machine of ENDS, or migrates a guest to it."""
    def make(end, cpus, incoming=None):
        build, args = ENDS[end]
        qemu = {'build': OUT / build} if build else qemu_7_2()
        kind = 'pseries-7.2' if end.endswith('7.2') else 'pseries'
        vm = pseries(*linux_args('6.1', tmp_path), '-smp', str(cpus), *args,
                     '-machine', kind, **qemu)
        return Guest(vm, incoming)
    return make


# QEMU 7.2 damages the memory of one in ten guests that run while it saves
# them. They crash in QEMU 7.2 as well.
@pytest.mark.parametrize('source, destination, state', [
    ('ours', 'ours', 'running'), ('ours', 'ours', 'paused'),
    ('peer', 'ours', 'running'), ('peer', 'ours', 'paused'),
    ('ours', 'peer', 'running'), ('7.2', 'ours-7.2', 'paused'),
    ('ours', 'ours-without', 'running'), ('ours-without', 'ours', 'running'),
    ('ours', 'peer-without', 'running'), ('peer-without', 'ours', 'running')])
def test_migration(start, tmp_path, source, destination, state):
    """
    The guest continues, and its device tree stays the same until a reset.

    Each vCPU gets random words. In a machine without the device, calls fail.
    """
    # A QEMU 10.0 with its own device loses idle vCPUs: see QEMU's issue 3079.
    cpus = 1 if destination.startswith('peer') else 2
    had_device, has_device = bool(ENDS[source][1]), bool(ENDS[destination][1])
    guest = start(source, cpus)
    if had_device:
        assert guest.run(READ) == (['64'], 0)
    guest.sh(READER)
    if state == 'paused':
        if not source.startswith('ours'):
            # With QEMU's own device, one "stop" in some hundred hangs while a
            # guest reads.
            guest.run('kill $!')
        if LOSES_VCPU_0:
            guest.sh("taskset 1 sh -c 'while :; do :; done' &")
        time.sleep(1)
        guest.qemu.cmd('stop')
    path = tmp_path / 'state'
    guest.save(path)

    guest = start(destination, cpus, incoming=f'file:{path}')
    until(lambda: guest.qemu.cmd('query-status')['status'] == state)
    guest.qemu.cmd('cont')
    for cpu in range(cpus if had_device else 0):
        assert guest.run(f'taskset {1 << cpu:x} {READ}') == (
            ['64' if has_device else '0'], 0)
    assert guest.run(f'test -d {NODE}') == ([], not had_device)
    assert guest.run(LISTED) == ([], source not in LISTING)

    guest.qemu.cmd('system_reset')
    guest.wait_until_ready()
    assert guest.run(f'test -d {NODE}') == ([], not has_device)
    assert guest.run(LISTED) == ([], destination not in LISTING)
    if has_device:
        assert guest.run(READ) == (['64'], 0)
