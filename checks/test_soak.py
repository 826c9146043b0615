# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/soak.py."""

import json

from testlib import TOP
from testlib.programs import run


def soak(*args):
    return run(TOP / 'bench/soak.py', *args)


def test_soak(tmp_path):
    done = soak('--calls', '4000000', '--migrations', '5', '--out', tmp_path)
    assert done.returncode == 0
    results = json.loads((tmp_path / 'soak.json').read_text())
    assert results['results']['calls']['calls'] == 4000000
    assert results['results']['moves']['migrations'] == 5
    assert results['results']['moves']['calls'] > 5000
    assert '4,000,000' in (tmp_path / 'soak.md').read_text()


def test_too_few_calls(tmp_path):
    done = soak('--calls', '10', '--out', tmp_path)
    assert done.returncode != 0
    assert '--calls: use 800000 or more' in done.stderr
    assert list(tmp_path.iterdir()) == []
