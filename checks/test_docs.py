# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual, and the parts of docs/examples/ that it shows.

The build of the manual, a part of the full build, fails at a warning.
"""

import re

import pytest

from testlib import TOP
from testlib.programs import run

PAGE = 'system/ppc/spapr-rng'


def test_properties(out):
    """The manual and the README have each property, as QEMU tells of it.

    The manual has its type and, if it can be set, its default; the README has
    its default.
    """
    told = run(out / 'native/qemu-system-ppc64', '-device',
               'spapr-rng,help').stdout
    assert '(8 to 16384;' in told
    told = re.findall(r'^  ([a-z-]+)=<(\w+).*?> +- .*?(?:\(default: (.*)\))?$',
                      told, re.M)
    types = {name: kind for name, kind, _ in told}
    defaults = {name: value.replace(str(2 ** 63 - 1), 'no limit')
                for name, _, value in told if value}
    defaults.setdefault('rng', 'none')

    assert 'pool-size' in (
        out / f'full/docs/manual/{PAGE}.html').read_text()
    text = (TOP / f'docs/{PAGE}.rst').read_text()
    row = r'^   \* - ``([a-z-]+)``\n     - (\w+)\n     - '
    assert dict(re.findall(row, text, re.M)) == {**types, 'rng': 'id'}
    rows = re.findall(row + r'(.*)\n     - (.*)', text, re.M)
    assert {name: value for name, _, value, _ in rows} == defaults
    assert ('pool-size', 'uint32', '16384', '8 to 16384 bytes') in rows

    rows = re.findall(r'^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| (.*?) \| ',
                      (TOP / 'README.md').read_text(), re.M)
    stated = {}
    for names, values in rows:
        stated.update(zip(re.findall('`(.*?)`', names), values.split(', ')))
    assert stated == defaults


@pytest.mark.parametrize('example, part', [
    ('libvirt.xml', '<qemu:commandline>.*</qemu:commandline>'),
    ('spapr-rng.cfg', r'\[object.*')])
def test_example_is_the_tested_one(example, part):
    """The manual shows the example that other tests run."""
    manual = (TOP / f'docs/{PAGE}.rst').read_text()
    tested = (TOP / 'docs/examples' / example).read_text()
    words = re.search(part, tested, re.DOTALL)[0].split()
    assert ' '.join(words) in ' '.join(manual.split())
