# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that the programs of bench/ share: errors, and writing results."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from testlib import GUESTS, OUT


class Failure(Exception):
    """A measured machine misbehaves, or a measurement is impossible."""


def expect(condition, what):
    if not condition:
        raise Failure(what)


def cpu_model():
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor()


@contextmanager
def measuring():
    """A directory to work in. A Failure ends the program with its message."""
    with tempfile.TemporaryDirectory() as name:
        try:
            yield Path(name)
        except Failure as failure:
            sys.exit(f'{Path(sys.argv[0]).stem}: {failure}')


def need_linux():
    """End the program if the Linux guest was not built."""
    if not (GUESTS / 'linux-6.1/initrd.gz').exists():
        sys.exit(f'{Path(sys.argv[0]).stem}: there is no Linux guest: run '
                 '"guests/linux/build 6.1"')


def environment(qemu=OUT / 'native/qemu-system-ppc64', command=None):
    """The facts that results depend on; command: by default, this program."""
    command = command or ' '.join(
        [f'bench/{Path(sys.argv[0]).name}', *sys.argv[1:]])
    version = subprocess.run([qemu, '--version'], capture_output=True,
                             text=True, check=True).stdout.splitlines()[0]
    series = (OUT / 'qemu/.git/series-id').read_text().split()[0]
    return {'command': command, 'date': time.strftime('%Y-%m-%d'),
            'machine': f'{cpu_model()}, {os.cpu_count()} cores',
            'kernel': f'{platform.system()} {platform.release()}',
            'qemu': version, 'series': series}


def write(directory, name, where, results, lines):
    """Write all results to NAME.json, and the readable lines to NAME.md."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f'{name}.json').write_text(
        json.dumps({**where, 'results': results}, indent=2) + '\n')
    (directory / f'{name}.md').write_text('\n'.join([
        *lines, '',
        f"`{where['command']}`, {where['date']}: {where['qemu']} with series "
        f"{where['series']}; {where['machine']}; {where['kernel']}", '']))
