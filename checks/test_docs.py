# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual, and the parts of docs/examples/ that it shows.

The build of the manual, a part of the full build, fails at a warning.
"""

import re
import textwrap

import pytest

from testlib import TOP
from testlib.programs import run

PAGE = 'system/ppc/spapr-rng'


def block(text, first, last):
    """The lines from one that contains `first` to one that contains `last`."""
    found = re.search(rf'^[^\n]*{re.escape(first)}.*?{re.escape(last)}', text,
                      re.MULTILINE | re.DOTALL)
    return textwrap.dedent(found[0])


def test_manual(out):
    """The manual has each property's name."""
    page = (out / f'full/docs/manual/{PAGE}.html').read_text()
    options = run(out / 'native/qemu-system-ppc64', '-device',
                  'spapr-rng,help').stdout
    names = re.findall(r'^  ([a-z-]+)=<', options, re.M)
    assert {'rng', 'use-kvm', 'timeout', 'pool-size'} <= {*names}
    assert [name for name in names
            if f'<span class="pre">{name}</span>' not in page] == []


@pytest.mark.parametrize('example, first, last', [
    ('libvirt.xml', '<qemu:commandline>', '</qemu:commandline>'),
    ('spapr-rng.cfg', '[object "rng0"]', 'rng = "rng0"')])
def test_example_is_the_tested_one(tree, example, first, last):
    """The manual shows the example that other tests run."""
    manual = (tree / f'docs/{PAGE}.rst').read_text()
    tested = (TOP / 'docs/examples' / example).read_text()
    assert block(manual, first, last) == block(tested, first, last)
