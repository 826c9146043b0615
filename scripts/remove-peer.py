#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Remove QEMU's own spapr-rng device from a QEMU source tree.

usage: remove-peer.py TREE

The code to remove is named by file and pattern. If the tree does not have
exactly the expected code, the script fails and changes nothing. It removes only
code that the series implements again.
"""

import re
import sys
from pathlib import Path


class Unexpected(Exception):
    """The tree does not have the code that this script expects."""


def only(matches, what):
    if len(matches) != 1:
        raise Unexpected(f'{what}: expected once, found {len(matches)} times')
    return matches[0]


def find(lines, pattern):
    return only([n for n, text in enumerate(lines) if re.search(pattern, text)],
                f"lines matching '{pattern}'")


def cut(lines, first, end):
    """Cut lines[first:end], and one of two empty lines that then meet."""
    del lines[first:end]
    if 0 < first < len(lines) and not lines[first - 1] and not lines[first]:
        del lines[first]


def line(pattern):
    def edit(lines):
        first = find(lines, pattern)
        cut(lines, first, first + 1)
    return edit


def until(pattern, last, included=True):
    """From the line matching pattern to the next one matching last."""
    def edit(lines):
        first = find(lines, pattern)
        for n in range(first + 1, len(lines)):
            if re.search(last, lines[n]):
                cut(lines, first, n + included)
                return
        raise Unexpected(f"no '{last}' after '{pattern}'")
    return edit


def before(pattern, stop):
    """From the line matching pattern up to, not including, stop."""
    return until(pattern, stop, included=False)


def function(name):
    return until(rf'^[a-z].*\b{name}\([^;]*$', r'^}')


DEVICE = 'hw/ppc/spapr_rng.c'

EDITS = [
    ('hw/ppc/meson.build', line(r'CONFIG_SPAPR_RNG')),
    ('hw/ppc/Kconfig', before(r'^config SPAPR_RNG$', r'^config ')),
    ('include/hw/ppc/spapr.h', line(r'^#define H_RANDOM\b')),
    ('include/hw/ppc/spapr.h', line(r'^#define TYPE_SPAPR_RNG\b')),
    ('hw/ppc/spapr.c', function('spapr_dt_rng')),
    ('hw/ppc/spapr.c', until(r'^    if .*\bTYPE_SPAPR_RNG\b', r'^    }')),
    ('target/ppc/kvm.c', function('kvmppc_enable_hwrng')),
    ('target/ppc/kvm_ppc.h', line(r'\bkvmppc_enable_hwrng\(.*;$')),
    ('target/ppc/kvm_ppc.h', function('kvmppc_enable_hwrng')),
    ('docs/system/ppc/pseries.rst', before(r'^\* .*spapr-rng', r'^(\*|$)')),
]

# Names that the edited files must not contain any more.
TRACES = re.compile(r'spapr[-_](dt_)?rng|H_RANDOM|_hwrng', re.I)


def remove(tree):
    edited = {}
    for path, edit in EDITS:
        file = tree / path
        if not file.is_file():
            raise Unexpected(f'{path}: no such file')
        lines = edited.setdefault(file, file.read_text().split('\n'))
        try:
            edit(lines)
        except Unexpected as e:
            raise Unexpected(f'{path}: {e}') from None
    for file, lines in edited.items():
        left = [text for text in lines if TRACES.search(text)]
        if left:
            raise Unexpected(f'{file.relative_to(tree)}: left over: {left[0]}')

    try:
        (tree / DEVICE).unlink()
    except FileNotFoundError:
        raise Unexpected(f'{DEVICE}: no such file') from None
    for file, lines in edited.items():
        file.write_text('\n'.join(lines))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split('\n\n')[1])
    tree = Path(sys.argv[1])
    try:
        remove(tree)
    except Unexpected as e:
        sys.exit(f'remove-peer: {tree}: {e}\n'
                 'remove-peer: the tree was left as it is; it is not a '
                 'QEMU this series was written for, or it was edited already')


main()
