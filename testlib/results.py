# SPDX-License-Identifier: GPL-2.0-or-later
"""Where and with what something was measured, and how it is written down."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path


class Failure(Exception):
    """Something is not as it must be, or cannot be measured."""


def expect(condition, what):
    if not condition:
        raise Failure(what)


def cpu_model():
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor()


def environment(qemu, command):
    """What results depend on."""
    version = subprocess.run([qemu, '--version'], capture_output=True,
                             text=True, check=True).stdout.splitlines()[0]
    return {'command': command, 'date': time.strftime('%Y-%m-%d'),
            'machine': f'{cpu_model()}, {os.cpu_count()} cores',
            'kernel': f'{platform.system()} {platform.release()}',
            'qemu': version}


def write(directory, name, where, results, lines):
    """NAME.json has all of it, NAME.md the lines for people."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f'{name}.json').write_text(
        json.dumps({**where, 'results': results}, indent=2) + '\n')
    (directory / f'{name}.md').write_text('\n'.join([
        *lines, '',
        f"`{where['command']}`, {where['date']}: {where['qemu']}; "
        f"{where['machine']}; {where['kernel']}", '']))
