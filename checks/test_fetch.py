# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/fetch with suites that do not exist or are not signed."""

import os
import shutil

from testlib import TOP
from testlib.programs import run


def test_refused(tmp_path):
    """An unsigned suite is refused, even if the host's apt accepts it.

    One line for each suite has the error.
    """
    shutil.copytree(TOP / 'scripts', tmp_path / 'scripts')
    suite = tmp_path / 'dists/unsigned'
    (suite / 'main/binary-ppc64el').mkdir(parents=True)
    (suite / 'main/binary-ppc64el/Packages').touch()
    (suite / 'Release').write_text('Codename: unsigned\n')
    lax = tmp_path / 'apt.conf'
    lax.write_text('Acquire::AllowInsecureRepositories "true";\n')

    done = run(tmp_path / 'scripts/fetch', 'a file', tmp_path / 'got',
               'ppc64el', 'none unsigned', 'touch file',
               env={**os.environ, 'DEBIAN_MIRROR': f'file:{tmp_path}',
                    'APT_CONFIG': str(lax)})
    assert done.returncode == 1
    assert not list(tmp_path.glob('got*'))
    missing, unsigned, what = done.stderr.splitlines()
    assert missing.endswith("none Release' does not have a Release file.")
    assert unsigned.endswith("unsigned Release' is not signed.")
    assert what.startswith('fetch: a file cannot be had from none unsigned: ')
