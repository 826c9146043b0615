# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration of a Linux guest between this device, QEMU's own, and none."""

import re

import pytest

from testlib import OUT, TOP
from testlib.limits import until
from testlib.linux import Guest, linux_args
from testlib.machine import spapr_rng
from testlib.programs import run

DEVICE = spapr_rng()

# The machines: "ours" is this QEMU, "peer" QEMU with its own device. "old" is
# the machine type before the newest one, "7.2" that of Debian 12's QEMU.
ENDS = {'ours': ('native', DEVICE), 'ours-without': ('native', []),
        'peer': ('peer/native', DEVICE), 'peer-without': ('peer/native', []),
        'ours-old': ('native', DEVICE), 'peer-old': ('peer/native', DEVICE),
        '7.2': (None, DEVICE), 'ours-7.2': ('native', DEVICE)}

# A process on the first vCPU that reads until a read fails, which lets the
# second vCPU be idle
READER = ("taskset 1 sh -c 'while dd if=/dev/hwrng bs=64 count=1; do :; done' "
          '>/dev/null 2>&1 &')
READ = 'dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c'
LISTED = "grep -q hcall-random /proc/device-tree/rtas/ibm,hypertas-functions"
NODE = '/proc/device-tree/ibm,platform-facilities/ibm,random-v1'


def is_listed(end):
    """Whether the machine lists hcall-random for its guest."""
    return ENDS[end][0] == 'native' and bool(ENDS[end][1])


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp('saved')


@pytest.fixture(scope='module')
def previous_type():
    """The machine type before the newest one.

    Not an older one: QEMU 10.2, also with its own device, fails to migrate
    guests of pseries-10.0.
    """
    types = run(OUT / 'native/qemu-system-ppc64', '-machine', 'help').stdout
    versions = re.findall(r'^pseries-(\d+)\.(\d+) ', types, re.MULTILINE)
    major, minor = sorted((int(a), int(b)) for a, b in versions)[-2]
    return f'pseries-{major}.{minor}'


@pytest.fixture(scope='module')
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
def start(pseries, directory, previous_type, request):
    """A function that starts a machine of ENDS, or migrates a guest to it."""
    def make(end, cpus=1, incoming=None):
        build, args = ENDS[end]
        old = {'build': OUT / build} if build else \
            request.getfixturevalue('qemu_7_2')
        kind = {'old': previous_type, '7.2': 'pseries-7.2'}.get(
            end.split('-')[-1], 'pseries')
        vm = pseries(*linux_args('6.1', directory), '-smp', str(cpus), *args,
                     '-machine', kind, **old)
        return Guest(vm, incoming)
    return make


@pytest.fixture
def saved(start, directory):
    """A function that boots a guest, and saves it while it runs and is paused.

    The function returns the path of the file; it boots each guest once.
    """
    def make(end, cpus=1, state='running'):
        paths = {name: directory / f'{end}-{cpus}-{name}'
                 for name in ['running', 'paused']}
        if not paths[state].exists():
            guest = start(end, cpus)
            if ENDS[end][1]:
                assert guest.run(READ) == (['64'], 0)
            guest.sh(READER)
            guest.save(paths['running'])
            guest.qemu.cmd('cont')
            if not end.startswith('ours'):
                # With QEMU's own device, one "stop" in some hundred hangs
                # while a guest reads.
                guest.run('kill $!')
            guest.qemu.cmd('stop')
            guest.save(paths['paused'])
        return paths[state]
    return make


@pytest.mark.parametrize('source, destination', [
    ('ours', 'ours'), ('ours', 'peer'), ('peer', 'ours'),
    ('ours', 'ours-without'), ('ours-without', 'ours'),
    ('ours', 'peer-without'), ('peer-without', 'ours'),
    ('ours-old', 'peer-old'), ('peer-old', 'ours-old')])
def test_migration(start, saved, source, destination):
    """
    The guest continues, and its device tree stays the same until a reset.

    In a machine without the device, calls fail.
    """
    guest = start(destination, incoming=f'file:{saved(source)}')
    until(lambda: guest.qemu.cmd('query-status')['status'] == 'running')

    had_device, has_device = bool(ENDS[source][1]), bool(ENDS[destination][1])
    if had_device:
        assert guest.run(READ) == (['64' if has_device else '0'], 0)
    assert guest.run(f'test -d {NODE}') == ([], not had_device)
    assert guest.run(LISTED) == ([], not is_listed(source))

    guest.qemu.cmd('system_reset')
    guest.wait_until_ready()
    assert guest.run(f'test -d {NODE}') == ([], not has_device)
    assert guest.run(LISTED) == ([], not is_listed(destination))
    if has_device:
        assert guest.run(READ) == (['64'], 0)


# A QEMU 10.0 with its own device loses idle vCPUs: see QEMU's issue 3079.
# QEMU 7.2 damages the memory of one in ten guests that run while it saves
# them. They crash in QEMU 7.2 as well.
@pytest.mark.parametrize('source, destination, state', [
    ('ours', 'ours', 'running'), ('ours', 'ours', 'paused'),
    ('peer', 'ours', 'running'), ('peer', 'ours', 'paused'),
    ('7.2', 'ours-7.2', 'paused')])
def test_vcpus(start, saved, source, destination, state):
    """No read fails on the way, and each vCPU gets random words afterwards."""
    path = saved(source, 2, state)
    guest = start(destination, 2, incoming=f'file:{path}')
    until(lambda: guest.qemu.cmd('query-status')['status'] == state)
    guest.qemu.cmd('cont')
    for cpu in range(2):
        assert guest.run(f'taskset {1 << cpu:x} {READ}') == (['64'], 0)
    guest.run('kill $!')
