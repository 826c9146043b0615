# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest: the device in its device tree, and reads of /dev/hwrng."""

import subprocess

import pytest

from testlib import KERNELS, examples
from testlib.limits import HANG
from testlib.linux import Console, linux_args
from testlib.machine import spapr_rng

PARENT = '/ibm,platform-facilities'
NODE = f'{PARENT}/ibm,random-v1'

JOB = f'''
cd /proc/device-tree{PARENT} 2>/dev/null &&
for file in $(find . -type f | sort); do
    echo "property $file $(hexdump -v -e '/1 "%02x"' $file)"
done
echo "hypertas $(tr '\\000' ' ' </proc/device-tree/rtas/ibm,hypertas-functions)"
echo "vector $(hexdump -v -e '/1 "%02x"' \\
    /proc/device-tree/chosen/ibm,architecture-vec-5)"
{examples.JOB}'''


@pytest.fixture(params=KERNELS)
def boot(request, tmp_path, pseries):
    """A function that boots Linux, and runs its job to the end.

    The function returns the console's lines, and QEMU's device tree.
    """
    def start(*args, **kwargs):
        dtb = tmp_path / 'dtb'
        qemu = pseries(*linux_args(request.param, tmp_path, JOB, **kwargs),
                       *args)
        console = Console(qemu)
        qemu.cmd('dumpdtb', filename=str(dtb))
        lines = console.lines_until('--- job end')
        assert lines[-1] == '--- job end, status 0'
        qemu.wait(timeout=HANG)
        assert qemu.exitcode() == 0
        return lines, dtb
    return start


def starting_with(lines, start):
    return [line[len(start):] for line in lines if line.startswith(start)]


def advertised(lines):
    """Whether hypertas-functions and option vector 5 list H_RANDOM."""
    functions, = starting_with(lines, 'hypertas ')
    vector, = starting_with(lines, 'vector ')
    assert 'hcall-watchdog' in functions.split()
    # Byte 0 is the length. The generator is bit 0 of byte 17; bit 0 is 0x80.
    return ('hcall-random' in functions.split(),
            bool((bytes.fromhex(vector) + bytes(18))[17] & 0x80))


@pytest.mark.parametrize('vof', [True, False], ids=['vof', 'slof'])
def test_with_device(boot, tmp_path, vof):
    source = examples.make_source(tmp_path)
    lines, dtb = boot(*spapr_rng(f'rng-random,filename={source}'), vof=vof)
    assert advertised(lines) == (True, True)

    # The guest sees the nodes as QEMU made them, and as PAPR specifies them.
    seen = {}
    for prop in starting_with(lines, 'property ./'):
        name, _, value = prop.partition(' ')
        seen[name] = bytes.fromhex(value)
    for name, value in seen.items():
        path, _, prop = f'{PARENT}/{name}'.rpartition('/')
        raw = subprocess.run(['fdtget', '-t', 'bx', dtb, path, prop],
                             capture_output=True, text=True, check=False)
        # Each node gets a phandle, and SLOF and Linux add more properties.
        if prop not in ('phandle', 'name', 'slof,from-fdt'):
            assert raw.returncode == 0, raw.stderr
            assert bytes(int(b, 16) for b in raw.stdout.split()) == value
    assert seen['device_type'] == b'ibm,platform-facilities\0'
    assert seen['#address-cells'] == b'\0\0\0\1'
    assert seen['#size-cells'] == b'\0\0\0\0'
    assert seen['ibm,random-v1/compatible'] == b'ibm,random\0'
    assert seen['ibm,random-v1/status'] == b'okay\0'
    assert 'ibm,random-v1/reg' not in seen

    # The driver is in use, and gives words of the source in order.
    examples.check_words(lines)


@pytest.mark.parametrize('vof', [True, False], ids=['vof', 'slof'])
def test_without_device(boot, vof):
    lines, dtb = boot(vof=vof)
    assert advertised(lines) == (False, False)
    assert starting_with(lines, 'property ') == []
    assert starting_with(lines, 'current ') == ['none']
    nodes = subprocess.run(['fdtget', '-l', dtb, '/'], capture_output=True,
                           text=True, check=True).stdout.split()
    assert PARENT[1:] not in nodes
