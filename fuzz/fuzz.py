#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz the device, or repeat the inputs in files.

usage: fuzz/fuzz.py SECONDS [--out DIRECTORY] | FILE...

--out writes the result to fuzz.json and fuzz.md in that directory. The fuzzer
needs the QEMU of `scripts/build-qemu $OUT asan qemu-system-ppc64`, which `make
fuzz` builds. $OUT/fuzz keeps inputs that found a fault, and inputs that reach
more code of the series.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from testlib import OUT, bare_metal, results, slow_source  # noqa: E402
from testlib.machine import TCG  # noqa: E402

WORK = OUT / 'fuzz'
SOURCES = ['h_random.c', 'machine.c', 'source.c']


def build():
    """Build the fuzzer and its helpers; return the fuzzer's environment."""
    (WORK / 'corpus').mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        subprocess.run(['clang', '-O2', '-g', '-Wall', '-Wextra', '-Werror',
                        '-I', TOP / 'guests/bare-metal',
                        '-I', TOP / 'include', '-c',
                        TOP / 'fuzz' / source], cwd=WORK, check=True)
    subprocess.run(['clang', '-fsanitize=fuzzer', '-o', 'h_random',
                    *(source[:-1] + 'o' for source in SOURCES)],
                   cwd=WORK, check=True)
    (WORK / 'counters').touch()
    return dict(
        os.environ, FUZZ_QEMU=os.environ.get('FUZZ_QEMU', str(
            OUT / 'asan/qemu-system-ppc64')),
        FUZZ_IMAGE=str(bare_metal.build(WORK)), FUZZ_CONFIG=str(TCG),
        FUZZ_PRELOAD=str(slow_source.build(WORK)),
        FUZZ_COUNTERS=str(WORK / 'counters'),
        # QEMU does not free all its memory before it ends.
        ASAN_OPTIONS='detect_leaks=0', UBSAN_OPTIONS='halt_on_error=1')


def fuzz(seconds, environment, out):
    """Fuzz for so many seconds; return whether nothing was found."""
    before = set(WORK.glob('crash-*'))
    runs = 0
    with subprocess.Popen(
            ['./h_random', f'-max_total_time={seconds}', '-max_len=600',
             '-rss_limit_mb=0', '-timeout=600', 'corpus', TOP / 'fuzz/corpus'],
            cwd=WORK, env=environment, text=True, errors='replace',
            stderr=subprocess.PIPE) as done:
        for line in done.stderr:
            sys.stderr.write(line)
            total = re.match(r'Done (\d+) runs', line)
            if total:
                runs = int(total[1])
    for path in set(WORK.glob('crash-*')) - before:
        print(f'fuzz: found {path}; see it again with: fuzz/fuzz.py {path}')
    if done.returncode != 0:
        return False
    kept = len(list((WORK / 'corpus').iterdir()))
    print(f'fuzz: nothing found in {seconds} s; {kept} inputs of interest '
          f'are in {WORK}/corpus')
    if out:
        where = results.environment(environment['FUZZ_QEMU'],
                                    f'make fuzz SECONDS={seconds}')
        results.write(out, 'fuzz', where, {
            'seconds': seconds, 'inputs': runs, 'kept': kept, 'found': 0}, [
                f'{runs:,} inputs in {seconds:,} s, {kept} of them kept since '
                'they reached something new; nothing was found.'])
    return True


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__.split('\n\n')[1])
    if not shutil.which('clang'):
        sys.exit('fuzz: clang is not there: run make packages')
    qemu = os.environ.get('FUZZ_QEMU', OUT / 'asan/qemu-system-ppc64')
    if not Path(qemu).exists():
        sys.exit(f'fuzz: there is no {qemu}: run make fuzz')
    if sys.argv[1].isdigit():
        if sys.argv[2:] and (len(sys.argv) != 4 or sys.argv[2] != '--out'):
            sys.exit(__doc__.split('\n\n')[1])
        out = Path(sys.argv[3]) if sys.argv[2:] else None
        ok = fuzz(int(sys.argv[1]), build(), out)
    else:
        files = [Path(name).resolve() for name in sys.argv[1:]]
        for file in files:
            if not file.is_file():
                sys.exit(f'fuzz: {file}: no such file: give a number of '
                         'seconds, or files with steps')
        ok = subprocess.run([WORK / 'h_random', *files], check=False,
                            env=dict(build(), FUZZ_TRACE='1')).returncode == 0
    sys.exit(0 if ok else 1)


main()
