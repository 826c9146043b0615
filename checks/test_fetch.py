# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/fetch with suites that do not exist or are not signed."""

import hashlib
import os
import shutil

from testlib import TOP
from testlib.programs import run

PACKAGE = b'not a package\n'
PATH = 'main/binary-ppc64el/Packages'
# Settings of apt that a careless administrator may have made for the host
LAX = '''APT::Get::AllowUnauthenticated "true";
Acquire::AllowInsecureRepositories "true";
Acquire::AllowDowngradeToInsecureRepositories "true";
'''


def test_refused(tmp_path):
    """An unsigned suite is refused, even if the host's apt accepts it.

    One line for each suite has the error.
    """
    shutil.copytree(TOP / 'scripts', tmp_path / 'scripts')
    mirror = tmp_path / 'mirror'
    index = mirror / 'dists/unsigned' / PATH
    index.parent.mkdir(parents=True)
    (mirror / 'p.deb').write_bytes(PACKAGE)
    text = (f'Package: p\nVersion: 1\nArchitecture: ppc64el\nFilename: p.deb\n'
            f'Size: {len(PACKAGE)}\n'
            f'SHA256: {hashlib.sha256(PACKAGE).hexdigest()}\n').encode()
    index.write_bytes(text)
    (mirror / 'dists/unsigned/Release').write_text(
        'Codename: unsigned\nSHA256:\n'
        f' {hashlib.sha256(text).hexdigest()} {len(text)} {PATH}\n')
    (tmp_path / 'lax').write_text(LAX)

    done = run(tmp_path / 'scripts/fetch', 'a p', tmp_path / 'got', 'ppc64el',
               'none unsigned', 'apt-get -qq download p',
               env={**os.environ, 'DEBIAN_MIRROR': f'file:{mirror}',
                    'APT_CONFIG': str(tmp_path / 'lax')})
    assert done.returncode == 1
    assert not list(tmp_path.glob('got*'))
    missing, unsigned, what = done.stderr.splitlines()
    assert missing.endswith("none Release' does not have a Release file.")
    assert unsigned.endswith("unsigned Release' is not signed.")
    assert what.startswith('fetch: a p cannot be had from none unsigned: see ')
