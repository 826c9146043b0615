# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines that QEMU's own device accepts, from 7.2 to 10.2."""

import json

import pytest

from testlib import KIND, OUT
from testlib.machine import URANDOM, machine

RNG = f'{URANDOM},id=rng0'
WARNING = ("warning: spapr-rng: use-kvm=true needs the KVM accelerator; the "
           "backend 'rng0' serves the guest")


@pytest.mark.parametrize('args, warning', [
    (['-object', RNG, '-device', 'spapr-rng,rng=rng0'], None),
    (['-object', 'rng-builtin,id=rng0', '-device', 'spapr-rng,rng=rng0'], None),
    (['-chardev', 'socket,id=egd,path=egd,server=on,wait=off',
      '-object', 'rng-egd,chardev=egd,id=rng0',
      '-device', 'spapr-rng,rng=rng0'], None),
    (['-object', RNG, '-device', 'spapr-rng,rng=rng0,use-kvm=off'], None),
    (['-object', RNG, '-device', 'spapr-rng,rng=rng0,use-kvm=true'], WARNING),
    (['-accel', 'tcg', '-object', RNG,
      '-device', 'spapr-rng,rng=rng0,use-kvm=true'], WARNING),
    (['-object', RNG, '-device', 'spapr-rng,rng=rng0',
      '-global', 'spapr-rng.use-kvm=on'], WARNING),
    (['-object', json.dumps({'qom-type': 'rng-random', 'id': 'rng0',
                             'filename': '/dev/urandom'}),
      '-device', json.dumps({'driver': 'spapr-rng', 'rng': 'rng0'})], None),
    (['-object', RNG, '-device', 'spapr-rng,rng=/objects/rng0'], None),
    (['-object', RNG, '-device', 'spapr-rng,rng=rng0',
      '-device', 'virtio-rng-pci,rng=rng0'], None),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
@pytest.mark.parametrize('build', ['peer/native', KIND])
def test_starts(tmp_path, monkeypatch, args, warning, build):
    """
    Each command line starts QEMU's own device, and this one.

    One falls back to TCG on a host without KVM.
    """
    monkeypatch.chdir(tmp_path)
    accel = 'kvm' if '-accel' in args else 'tcg'
    with machine(tmp_path, *args, '-S', accel=accel, build=OUT / build) as vm:
        vm.launch()
        assert vm.cmd('query-status')['status'] == 'prelaunch'
    assert (WARNING in vm.get_log()) == (bool(warning) and build == KIND)
