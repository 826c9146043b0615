# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual, and the parts of docs/examples/ that it shows."""

import re
import textwrap

from testlib import TOP
from testlib.programs import run

PAGE = 'system/ppc/spapr-rng'
SCRIPT = TOP / 'scripts/build-docs'

# The part of QEMU's configuration of Sphinx that the script needs
CONF = '''
def setup(app):
    app.add_config_value('kerneldoc_werror', 0, 'env')
'''


def build(out):
    return run(SCRIPT, out)


def block(text, first, last):
    """The lines from one that contains `first` to one that contains `last`."""
    assert first in text, f'there is no {first}'
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if first in line)
    end = next(n for n in range(start, len(lines)) if last in lines[n])
    return textwrap.dedent('\n'.join(lines[start:end + 1]))


def test_manual(out):
    """The manual builds without warnings, and has each property's name."""
    done = build(out)
    assert done.returncode == 0, done.stderr
    page = (out / f'docs/{PAGE}.html').read_text()
    options = run(out / 'native/qemu-system-ppc64', '-device',
                  'spapr-rng,help').stdout
    names = re.findall(r'^  ([a-z-]+)=<', options, re.M)
    assert {'rng', 'use-kvm', 'timeout', 'pool-size'} <= {*names}
    assert [name for name in names
            if f'<span class="pre">{name}</span>' not in page] == []


def test_warning_is_an_error(tmp_path):
    """A warning is an error in each run, and the error names the log."""
    docs = tmp_path / 'qemu/docs'
    docs.mkdir(parents=True)
    (tmp_path / 'qemu/VERSION').write_text('1.2.3\n')
    (docs / 'conf.py').write_text(CONF)
    (docs / 'index.rst').write_text('Title\n=====\n\n:ref:`nowhere`\n')
    log = tmp_path / 'docs.log'
    for _ in range(2):
        done = build(tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith(f'see {log}\n')
        assert 'undefined label' in log.read_text()
    (docs / 'index.rst').write_text('Title\n=====\n')
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'docs/index.html').exists()


def test_domain_is_the_tested_one(tree):
    """The manual shows the XML of the example, which test_libvirt.py runs."""
    limits = '<qemu:commandline>', '</qemu:commandline>'
    assert block((tree / f'docs/{PAGE}.rst').read_text(), *limits) == block(
        (TOP / 'docs/examples/libvirt.xml').read_text(), *limits)


def test_config_is_the_tested_one(tree):
    limits = '[object "rng0"]', 'rng = "rng0"'
    assert block((tree / f'docs/{PAGE}.rst').read_text(), *limits) == block(
        (TOP / 'docs/examples/spapr-rng.cfg').read_text(), *limits)
