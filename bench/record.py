# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that the programs of bench/ share: errors, and writing results.

A program imports this module first, which has Python find testlib.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from testlib import OUT  # noqa: E402


def expect(condition, what):
    """End the program if a machine misbehaves."""
    if not condition:
        sys.exit(f'{Path(sys.argv[0]).stem}: {what}')


@contextmanager
def measuring(parser):
    """The program's arguments, with --out, and a directory to work in."""
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results',
                        help='the directory for the results')
    args = parser.parse_args()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f'--out: {error}')
    # Python's own way to end would leave the guests running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended'))
    with tempfile.TemporaryDirectory() as name:
        yield args, Path(name)


def version(build):
    return subprocess.run(
        [build / 'qemu-system-ppc64', '--version'], capture_output=True,
        text=True, check=True).stdout.splitlines()[0]


def environment():
    """The facts that results depend on."""
    models = re.findall(r'^(?:model name|cpu)\s*: (.*)',
                        Path('/proc/cpuinfo').read_text(), re.M)
    series = (OUT / 'qemu/.git/series-id').read_text().split()[0]
    return {'command': ' '.join([f'bench/{Path(sys.argv[0]).name}',
                                 *sys.argv[1:]]),
            'date': time.strftime('%Y-%m-%d'),
            'machine': ', '.join([*models[:1], f'{os.cpu_count()} cores']),
            'kernel': f'{platform.system()} {platform.release()}',
            'qemu': version(OUT / 'native'), 'series': series}


def write(directory, name, results, lines, **facts):
    """Write all results to NAME.json, and the readable lines to NAME.md."""
    where = {**environment(), **facts}
    (directory / f'{name}.json').write_text(
        json.dumps({**where, 'results': results}, indent=2) + '\n')
    (directory / f'{name}.md').write_text('\n'.join([
        *lines, '',
        f"`{where['command']}`, {where['date']}: {where['qemu']} with series "
        f"{where['series']}; {where['machine']}; {where['kernel']}", '']))
