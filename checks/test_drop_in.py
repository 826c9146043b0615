# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines that QEMU's own device accepts, from 7.2 to 10.2."""

import pytest

from testlib import KIND, OUT
from testlib.machine import URANDOM, machine

RNG = f'-object {URANDOM},id=rng0 -device spapr-rng,rng=rng0'
WARNING = ("warning: spapr-rng: use-kvm=true needs the KVM accelerator; the "
           "backend 'rng0' serves the guest")


@pytest.mark.parametrize('args', [
    '-object rng-builtin,id=rng0 -device spapr-rng,rng=/objects/rng0',
    '-chardev socket,id=egd,path=egd,server=on,wait=off '
    '-object rng-egd,chardev=egd,id=rng0 -device spapr-rng,rng=rng0',
    f'{RNG},use-kvm=off -device virtio-rng-pci,rng=rng0',
    f'{RNG},use-kvm=true',
    f'{RNG},use-kvm=true -accel tcg',   # on a host without KVM
    f'{RNG} -global spapr-rng.use-kvm=on',
    '-object {"qom-type":"rng-builtin","id":"rng0"} '
    '-device {"driver":"spapr-rng","rng":"rng0"}',
])
@pytest.mark.parametrize('build', ['peer/native', KIND])
def test_starts(tmp_path, monkeypatch, args, build):
    """Each command line starts QEMU's own device, and this one."""
    monkeypatch.chdir(tmp_path)
    accel = 'kvm' if '-accel' in args else 'tcg'
    with machine(tmp_path, *args.split(), '-S', accel=accel,
                 build=OUT / build) as vm:
        vm.launch()
        assert vm.cmd('query-status')['status'] == 'prelaunch'
    uses_kvm = 'kvm=true' in args or 'kvm=on' in args
    assert (WARNING in vm.get_log()) == (uses_kvm and build == KIND)
