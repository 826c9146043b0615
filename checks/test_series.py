# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches, and the scripts that assemble and export the series."""

import re
import shutil

import pytest

from testlib import TOP
from testlib.programs import run


def git(tree, *args):
    done = run('git', '-C', tree, '-c', 'user.name=a',
               '-c', 'user.email=a@b.example', *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def series(top=TOP):
    """Each patch with the new files that belong to it."""
    lines = (top / 'patches/series').read_text().splitlines()
    return [line.split() for line in lines if '/' in line]


def contents(top):
    """The files that scripts/export writes, with their contents."""
    names = ['patches/series']
    for patch, *files in series(top):
        names += [f'patches/{patch}', *files]
    return {name: (top / name).read_text() for name in names}


@pytest.fixture
def base(tree, tmp_path):
    """QEMU without the series: a clone, with only the files that it edits."""
    path = tmp_path / 'base'
    git(tree, 'clone', '-q', '--shared', '--sparse', '--branch=base', tree,
        path)
    git(path, 'sparse-checkout', 'add', 'docs/system', 'hw/ppc',
        'include/hw/ppc', 'target/ppc')
    return path


def test_no_patch_rewrites_another(tree):
    """No patch removes a line that an earlier patch added."""
    for commit in git(tree, 'rev-list', 'base..series').split():
        diff = git(tree, 'diff', '-U0', '--no-renames', f'{commit}^', commit)
        for path, hunks in re.findall(
                r'^--- a/(.*)\n.*\n((?:[-+@\\].*\n)+)', diff, re.M):
            for lines in re.findall(r'^@@ -(\d+(?:,[1-9]\d*)?) ', hunks, re.M):
                first, _, count = lines.partition(',')
                # git marks the lines of QEMU with a ^.
                blame = git(tree, 'blame', f'-L{first},+{count or 1}',
                            f'base..{commit}^', '--', path)
                assert re.fullmatch(r'(\^.*\n)+', blame)


def test_export_is_a_no_op(tree, tmp_path):
    """
    Exporting the assembled series writes the same files again.

    A series that scripts/adapt has edited for a newer QEMU is not exported.
    """
    for name in ['scripts', 'patches']:
        shutil.copytree(TOP / name, tmp_path / name)
    done = run(tmp_path / 'scripts/export', tree)
    if (tree / '.git/adapt').read_text():
        assert done.returncode == 1
        assert 'make the change in build/qemu' in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path) == contents(TOP)


def test_adapt(tree):
    """scripts/adapt edits only for a newer QEMU; each edit has an effect."""
    source = (tree / '.git/source-id').read_text().splitlines()[0]
    done = run(TOP / 'scripts/adapt', source)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tree / '.git/adapt').read_text()
    version = (tree / 'VERSION').read_text().split('.')
    assert bool(done.stdout) == ([*map(int, version)] >= [10, 1])
    ours = ''.join(contents(TOP).values())
    for edit in re.findall(r'^s(?:.*\\\n)*.*$', done.stdout, re.M):
        edited = run('sed', edit, input=ours)
        assert edited.returncode == 0, edited.stderr
        assert edited.stdout != ours, f'of no use: {edit}'


def test_nothing_of_the_peer_is_left(tree):
    done = run('git', '-C', tree, 'grep', '-lE',
               'spapr[-_](dt_)?rng|H_RANDOM|_hwrng', 'without-peer', '--',
               'hw/ppc', 'include/hw/ppc', 'target/ppc', 'docs/system')
    assert done.stdout == ''


@pytest.mark.parametrize('spoil', [
    lambda tree: (tree / 'hw/ppc/spapr_rng.c').unlink(),
    lambda tree: (tree / 'target/ppc/kvm.c').write_text(''),
], ids=['no-device', 'no-function'])
def test_unexpected_base_is_refused(base, spoil):
    """remove-peer.py refuses an unexpected tree, and does not change it."""
    spoil(base)
    before = git(base, 'diff')
    done = run(TOP / 'scripts/remove-peer.py', base)
    assert done.returncode == 1 and done.stderr.startswith('remove-peer: ')
    assert git(base, 'diff') == before


def test_assemble(tmp_path):
    """assemble copies a QEMU, and does not overwrite work in the copy."""
    def assemble(error):
        done = run(tmp_path / 'scripts/assemble', source, copy)
        assert done.returncode == bool(error) and error in done.stderr

    shutil.copytree(TOP / 'scripts', tmp_path / 'scripts')
    series = tmp_path / 'patches/series'
    source, copy = tmp_path / 'source', tmp_path / 'copy'
    for file in [series, source / 'hw/ppc/spapr.c',
                 source / 'subprojects/keycodemapdb/README']:
        file.parent.mkdir(parents=True)
        file.touch()
    assemble('not a QEMU source tree')
    assert not copy.exists()
    (source / 'VERSION').write_text('10.0.0\n')
    git(source, 'init', '-q')
    git(source, 'add', '.')
    git(source, 'commit', '-q', '-m', 'QEMU')
    assemble('')
    assert git(source, 'status', '--porcelain') == ''
    assert git(copy, 'rev-parse', 'base^{tree}') == \
        git(source, 'rev-parse', 'HEAD^{tree}')

    (copy / 'VERSION').write_text('0.0.0\n')
    series.write_text('# changed\n')
    assemble('make export')
    assert (copy / 'VERSION').read_text() == '0.0.0\n'


def test_mails(tree, base, tmp_path):
    """As in the README, git am applies all mails to unmodified QEMU."""
    mails = tmp_path / 'mails'
    done = run(TOP / 'scripts/mail-series', tree, mails)
    assert done.returncode == 0, done.stderr
    letters = ''.join(path.read_text() for path in mails.rglob('*.txt'))
    for _, *files in series():
        assert all(f' {file} ' in letters for file in files)
    git(base, 'am', '-q', *sorted(mails.glob('*/*.patch')))
    assert git(base, 'diff', 'series') == ''


def test_commit_messages(tree):
    """The rules for commit messages that checkpatch does not check."""
    messages = git(tree, 'log', '-z', '--format=%B', 'base..series')
    for message in messages.rstrip('\0').split('\0'):
        subject, empty, *lines = message.splitlines()
        assert ': ' in subject and len(subject) <= 76 and empty == ''
        assert lines[-1].startswith('Signed-off-by: ')
        assert all(len(line) <= 76 or line.startswith('Fixes: ')
                   for line in lines)


@pytest.mark.parametrize('part', ['base..without-peer^',
                                  'without-peer..series'])
def test_checkpatch(tree, part):
    done = run('scripts/checkpatch.pl', '--no-color', '--terse', part,
               cwd=tree)
    assert done.returncode == 0
    assert not re.search('ERROR|WARNING', done.stdout)


def test_backends_alone(tree, out):
    """The backends build and pass on QEMU with its own spapr-rng."""
    done = run(TOP / 'scripts/bisect-check', tree, out / 'backends',
               'rng-backends^..rng-backends', 'qtest/qos-test',
               'unit/test-rng-backend', 'unit/test-rng-reader')
    assert done.returncode == 0, done.stderr
    assert '    Ok: 3' in done.stdout
