# SPDX-License-Identifier: GPL-2.0-or-later
"""A short run of bench/soak.py."""

import json

from testlib import TOP
from testlib.programs import run


def test_soak(tmp_path):
    done = run(TOP / 'bench/soak.py', '--calls', '4000000', '--migrations',
               '5', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'soak.json').read_text())['results']
    assert results['calls']['calls'] == 4000000
    assert results['moves']['migrations'] == 5
    assert results['moves']['calls'] > 5000
    assert '4,000,000' in (tmp_path / 'soak.md').read_text()
