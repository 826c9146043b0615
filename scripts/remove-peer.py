#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove QEMU's own spapr-rng device from a QEMU source tree.

usage: remove-peer.py TREE

The code to remove is named by file and pattern. If the tree does not have
exactly the expected code, the script fails and changes nothing. It removes
only code that the series implements again.
"""

import re
import sys
from pathlib import Path


def function(name):
    return rf'[a-z].*\b{name}\([^;]*?\n{{\n(.*\n)*?}}'


DEVICE = 'hw/ppc/spapr_rng.c'

EDITS = [
    ('hw/ppc/meson.build', r'.*CONFIG_SPAPR_RNG.*'),
    ('hw/ppc/Kconfig', r'config SPAPR_RNG(\n(?!config ).*)*'),
    ('include/hw/ppc/spapr.h', r'#define H_RANDOM\b.*'),
    ('include/hw/ppc/spapr.h', r'#define TYPE_SPAPR_RNG\b.*'),
    ('hw/ppc/spapr.c', function('spapr_dt_rng')),
    ('hw/ppc/spapr.c', r'    if .*\bTYPE_SPAPR_RNG\b(.*\n)*?    }'),
    ('target/ppc/kvm.c', function('kvmppc_enable_hwrng')),
    ('target/ppc/kvm_ppc.h', r'.*\bkvmppc_enable_hwrng\(.*;'),
    ('target/ppc/kvm_ppc.h', function('kvmppc_enable_hwrng')),
    ('docs/system/ppc/pseries.rst', r'\* .*spapr-rng.*(\n(?!\*).+)*'),
]


def remove(tree):
    edited = {}
    for path, pattern in EDITS:
        text = edited.get(path) or (tree / path).read_text()
        found = list(re.finditer(rf'^{pattern}\n', text, re.M))
        if len(found) != 1:
            sys.exit(f"remove-peer: {tree}/{path} has '{pattern}' "
                     f'{len(found)} times: this is not a QEMU that this '
                     'series was written for, or it was edited already')
        before, after = text[:found[0].start()], text[found[0].end():]
        # Keep one of two empty lines that meet.
        if before.endswith('\n\n'):
            after = after.removeprefix('\n')
        edited[path] = before + after

    (tree / DEVICE).unlink()
    for path, text in edited.items():
        (tree / path).write_text(text)


try:
    remove(Path(sys.argv[1]))
except FileNotFoundError as error:
    sys.exit(f'remove-peer: {error}')
