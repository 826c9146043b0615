# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual, and the parts of docs/examples/ that it shows.

The build of the manual, a part of the full build, fails at a warning.
"""

import re

import pytest

from testlib import TOP
from testlib.programs import run

PAGE = 'system/ppc/spapr-rng'


@pytest.fixture
def told(out):
    """What QEMU tells of each property: its type, and its default or ''."""
    options = run(out / 'native/qemu-system-ppc64', '-device',
                  'spapr-rng,help').stdout
    assert '(8 to 16384;' in options
    default = r'(?:\(default: (.*)\))?$'
    return {name: (kind, value) for name, kind, value in
            re.findall(rf'^  ([a-z-]+)=<(\w+).*?> +- .*?{default}', options,
                       re.M)}


def options_of(told):
    """The default of each option, as a document names it."""
    named = {'': 'none', str(2 ** 63 - 1): 'no limit'}
    return {name: named.get(value, value)
            for name, (kind, value) in told.items()
            if value or kind == 'link'}


def test_manual(out, told):
    """The manual is built, and has each property's name, type and default."""
    assert 'pool-size' in (
        out / f'full/docs/manual/{PAGE}.html').read_text()
    text = (TOP / f'docs/{PAGE}.rst').read_text()
    row = r'^   \* - ``([a-z-]+)``\n     - (\w+)\n     - '
    rows = re.findall(row + r'(.*)\n     - (.*)', text, re.M)
    assert {name: value for name, _, value, _ in rows} == options_of(told)
    assert ('pool-size', 'uint32', '16384', '8 to 16384 bytes') in rows
    types = {name: kind for name, (kind, _) in told.items()}
    assert dict(re.findall(row, text, re.M)) == {**types, 'rng': 'id'}


def test_readme(told):
    """The README's table has each option with its default."""
    rows = re.findall(r'^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (.*?) \| ',
                      (TOP / 'README.md').read_text(), re.M)
    stated = {}
    for names, values in rows:
        stated.update(zip(re.findall('`(.*?)`', names), values.split(', ')))
    assert stated == options_of(told)


@pytest.mark.parametrize('example, part', [
    ('libvirt.xml', '<qemu:commandline>.*</qemu:commandline>'),
    ('spapr-rng.cfg', r'\[object.*')])
def test_example_is_the_tested_one(tree, example, part):
    """The manual shows the example that other tests run."""
    manual = (tree / f'docs/{PAGE}.rst').read_text()
    tested = (TOP / 'docs/examples' / example).read_text()
    words = re.search(part, tested, re.DOTALL)[0].split()
    assert ' '.join(words) in ' '.join(manual.split())
