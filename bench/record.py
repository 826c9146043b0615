# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that the programs of bench/ share: errors, and writing results."""

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

from testlib import OUT, TOP


class Failure(Exception):
    """A measured machine misbehaves, or a measurement is impossible."""


def expect(condition, what):
    if not condition:
        raise Failure(what)


def parse(parser):
    """The program's arguments, among them --out, a directory that exists."""
    parser.add_argument('--out', type=Path, default=TOP / 'bench/results',
                        help='the directory for the results')
    args = parser.parse_args()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f'--out: {error}')
    return args


@contextmanager
def measuring():
    """A directory to work in. A Failure ends the program with its message."""
    # Python's own way to end would leave the guests running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended'))
    with tempfile.TemporaryDirectory() as name:
        try:
            yield Path(name)
        except Failure as failure:
            sys.exit(f'{Path(sys.argv[0]).stem}: {failure}')


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
            'machine': ', '.join([*models[:1],
                                  f'{os.cpu_count()} cores']),
            'kernel': f'{platform.system()} {platform.release()}',
            'qemu': version(OUT / 'native'), 'series': series}


def write(directory, name, where, results, lines):
    """Write all results to NAME.json, and the readable lines to NAME.md."""
    (directory / f'{name}.json').write_text(
        json.dumps({**where, 'results': results}, indent=2) + '\n')
    (directory / f'{name}.md').write_text('\n'.join([
        *lines, '',
        f"`{where['command']}`, {where['date']}: {where['qemu']} with series "
        f"{where['series']}; {where['machine']}; {where['kernel']}", '']))
