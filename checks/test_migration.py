# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration of a Linux guest between this device, QEMU's own, and none."""

import json
import re
import subprocess

import pytest

from testlib import OUT
from testlib.limits import until
from testlib.linux import Guest, linux_args
from testlib.machine import spapr_rng
from testlib.programs import run

DEVICE = spapr_rng()

# The machines: "ours" is this QEMU, "peer" QEMU with its own device. "old" is
# the machine type before the newest one.
ENDS = {'ours': ('native', DEVICE), 'ours-without': ('native', []),
        'peer': ('peer/native', DEVICE), 'peer-without': ('peer/native', []),
        'ours-old': ('native', DEVICE), 'peer-old': ('peer/native', DEVICE)}

READ = 'dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c'
LISTED = "grep -q hcall-random /proc/device-tree/rtas/ibm,hypertas-functions"
NODE = '/proc/device-tree/ibm,platform-facilities/ibm,random-v1'


def is_listed(end):
    """Whether the machine lists hcall-random for its guest."""
    return ENDS[end][0] == 'native' and bool(ENDS[end][1])


def shape(section):
    """The parts of a section that do not depend on the size of its data."""
    return (section['vmsd_name'], section['version'],
            [field['name'] for field in section['fields']],
            [shape(part) for part in section.get('subsections', [])])


def find(value, key):
    """The value of a key, anywhere in nested dictionaries."""
    if not isinstance(value, dict):
        return None
    if key in value:
        return value[key]
    return next(filter(None, (find(v, key) for v in value.values())), None)


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


@pytest.fixture
def start(pseries, directory, previous_type):
    """A function that starts a machine of ENDS, or migrates a guest to it."""
    def make(end, incoming=None):
        build, args = ENDS[end]
        if end.endswith('-old'):
            args = [*args, '-machine', previous_type]
        # Under TCG, QEMU 10.0 loses the second vCPU of a Linux guest.
        vm = pseries(*linux_args('6.1', directory), '-smp', '1', *args,
                     build=OUT / build)
        return Guest(vm, incoming)
    return make


@pytest.fixture
def saved(start, directory):
    """A function that boots a guest of ENDS, and saves it to a file, once."""
    def make(end):
        path = directory / end
        if not path.exists():
            guest = start(end)
            if ENDS[end][1]:
                assert guest.run(READ) == (['64'], 0)
            guest.save(path)
        return path
    return make


@pytest.mark.parametrize('source, destination', [
    ('ours', 'ours'), ('ours', 'peer'), ('peer', 'ours'),
    ('ours', 'ours-without'), ('ours-without', 'ours'),
    ('ours', 'peer-without'), ('peer-without', 'ours'),
    ('peer', 'ours-without'), ('ours-without', 'peer'),
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


def test_stream(saved, tree):
    """
    All machines of ENDS send the same sections, as the peer does.

    Only the bit that Linux negotiates may differ.
    """
    def state(end, what):
        done = subprocess.run(
            ['/usr/bin/python3', tree / 'scripts/analyze-migration.py',
             '-f', saved(end), '-d', what],
            capture_output=True, check=True)
        return json.loads(done.stdout)

    options = [find(state(end, 'state'), 'spapr_option_vector_ov5_cas')
               ['ov5_cas']['bitmap'] for end in ENDS]
    bits = [int(option.replace(' ', ''), 16) for option in options]
    assert bits[0]
    assert all((bits[0] ^ other).bit_count() <= 1 for other in bits)

    devices = [{device['name']: device
                for device in state(end, 'desc')['devices']} for end in ENDS]
    for others in devices[1:]:
        assert others.keys() == devices[0].keys()
        assert shape(others['spapr']) == shape(devices[0]['spapr'])
