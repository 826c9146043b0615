# SPDX-License-Identifier: GPL-2.0-or-later
"""The patches, and the scripts that assemble and export the series."""

import re
import shutil

import pytest

from testlib.programs import run


def git(tree, *args):
    done = run('git', '-C', tree, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def series(top):
    lines = (top / 'patches/series').read_text().splitlines()
    return [line.split() for line in lines if '/' in line]


def file_bytes(top):
    """The files that scripts/export writes, with their contents."""
    paths = [top / 'patches' / 'series']
    for patch, *files in series(top):
        paths += [top / 'patches' / patch, *(top / file for file in files)]
    return {path: path.read_bytes() for path in paths}


def test_commits_are_the_patches(top, tree):
    """One commit removes QEMU's own device; each variant adds one."""
    commits = git(tree, 'log', '--reverse', '--format=%s',
                  'base..series').splitlines()
    adapt = (tree / '.git/adapt').read_text()
    patches = [patch for patch, *_ in series(top)
               if f'# without {patch.split("/")[0]}\n' not in adapt]
    variants = adapt.count('# variant ')
    assert len(commits) == 1 + len(patches) + variants > 1
    assert git(tree, 'status', '--porcelain') == ''


def test_no_patch_rewrites_another(tree):
    """No patch removes a line that an earlier patch added."""
    ours = git(tree, 'rev-list', 'base..series').split()
    for commit in ours:
        diff = git(tree, 'diff', '-U0', '--no-renames', f'{commit}^', commit)
        for path, hunks in re.findall(
                r'^--- a/(.*)\n.*\n((?:[-+@\\].*\n)+)', diff, re.M):
            for lines in re.findall(r'^@@ -(\d+(?:,[1-9]\d*)?) ', hunks, re.M):
                first, _, count = lines.partition(',')
                blame = git(tree, 'blame', '-ls', f'-L{first},+{count or 1}',
                            f'{commit}^', '--', path)
                assert not any(line.split()[0] in ours
                               for line in blame.splitlines()), blame


def test_export_is_a_no_op(top, tree, tmp_path):
    """
    Exporting the assembled series writes the same files again.

    A series that scripts/adapt has edited for a newer QEMU is not exported.
    """
    copy = tmp_path / 'repo'
    copy.mkdir()
    for name in ['scripts', 'patches']:
        shutil.copytree(top / name, copy / name)
    before = file_bytes(top)
    done = run(copy / 'scripts/export', tree)
    if (tree / '.git/adapt').read_text():
        assert done.returncode == 1
        assert 'make the change in build/qemu' in done.stderr
        assert (copy / 'patches/series').read_text() == \
            (top / 'patches/series').read_text()
        return
    assert done.returncode == 0, done.stderr
    after = {top / path.relative_to(copy): data
             for path, data in file_bytes(copy).items()}
    assert after == before


def test_adapt(top, tree):
    """scripts/adapt edits only for a newer QEMU; each edit has an effect."""
    source = (tree / '.git/source-id').read_text().splitlines()[0]
    done = run(top / 'scripts/adapt', source)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tree / '.git/adapt').read_text()
    version = (tree / 'VERSION').read_text().split('.')
    new = [int(part) for part in version] >= [10, 1]
    assert bool(done.stdout) == new
    ours = ''.join(path.read_text() for path in file_bytes(top))
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
    lambda tree: (tree / 'hw/ppc/Kconfig').unlink(),
], ids=['no-device', 'no-function', 'no-file'])
def test_unexpected_base_is_refused(top, tree, tmp_path, spoil):
    """remove-peer.py refuses an unexpected tree, and does not change it."""
    before = 'without-peer^'
    files = git(tree, 'diff', '--name-only', before, 'without-peer').split()
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(git(tree, 'show', f'{before}:{name}'))
    spoil(tmp_path)
    contents = {path: path.read_bytes()
                for path in tmp_path.rglob('*') if path.is_file()}
    done = run(top / 'scripts/remove-peer.py', tmp_path)
    assert done.returncode == 1
    assert done.stdout == '' and 'Traceback' not in done.stderr
    assert done.stderr.startswith('remove-peer: ')
    assert contents == {path: path.read_bytes()
                        for path in tmp_path.rglob('*') if path.is_file()}


def test_other_trees_are_refused(top, tmp_path):
    done = run(top / 'scripts/assemble', tmp_path, tmp_path / 'tree')
    assert done.returncode == 1
    assert 'not a QEMU source tree' in done.stderr
    assert not (tmp_path / 'tree').exists()


def test_work_is_not_lost(top, tree, tmp_path):
    """assemble does not overwrite work that was not exported."""
    copy = tmp_path / 'repo'
    shutil.copytree(top / 'scripts', copy / 'scripts')
    (copy / 'patches').mkdir()
    (copy / 'patches/series').write_text('')
    source = tmp_path / 'source'
    git(tree, 'worktree', 'add', '--detach', '-f', source, 'base')
    try:
        clone = tmp_path / 'clone'
        done = run(copy / 'scripts/assemble', source, clone)
        assert done.returncode == 0, done.stderr
        assert git(source, 'status', '--porcelain') == ''
        assert git(source, 'rev-parse', 'HEAD') == \
            git(tree, 'rev-parse', 'base')
        assert git(clone, 'rev-parse', 'base^{tree}') == \
            git(tree, 'rev-parse', 'base^{tree}')

        (clone / 'VERSION').write_text('0.0.0\n')
        (copy / 'patches/series').write_text('# changed\n')
        done = run(copy / 'scripts/assemble', source, clone)
        assert done.returncode == 1
        assert 'make export' in done.stderr
        assert (clone / 'VERSION').read_text() == '0.0.0\n'
    finally:
        git(tree, 'worktree', 'remove', '--force', source)


def test_mails(top, tree, tmp_path):
    """Typed as in the README, git am applies all mails to unmodified QEMU."""
    mails, clone = tmp_path / 'mails', tmp_path / 'clone'
    done = run(top / 'scripts/mail-series', tree, mails)
    assert done.returncode == 0, done.stderr
    letters = ''.join(path.read_text() for path in mails.rglob('*.txt'))
    assert letters.count('base-commit: ') == 0
    for _, *files in series(top):
        assert all(f' {file} ' in letters for file in files)
    git(tree, 'worktree', 'add', '--detach', '-f', clone, 'base')
    try:
        done = run('sh', '-c', f'git -c user.name=a -c user.email=a@b.example '
                   f'am -q {mails}/*/*.patch', cwd=clone)
        assert done.returncode == 0, done.stderr
        assert git(clone, 'diff', 'series') == ''
    finally:
        git(tree, 'worktree', 'remove', '--force', clone)


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
    done = run(tree / 'scripts/checkpatch.pl', '--no-color', '--terse', part,
               cwd=tree)
    assert done.returncode == 0, done.stdout
    for line in done.stdout.splitlines():
        assert 'ERROR' not in line and 'WARNING' not in line, done.stdout


def test_checkpatch_whole_files(top, tree):
    sources = [file for _, *files in series(top) for file in files
               if file.endswith(('.c', '.h'))]
    assert sources
    done = run(tree / 'scripts/checkpatch.pl', '--no-color', '--terse',
               '--strict', '-f', *sources, cwd=tree)
    assert done.returncode == 0, done.stdout


def test_backends_alone(top, tree, out):
    """The backends build and pass on QEMU with its own spapr-rng."""
    done = run(top / 'scripts/bisect-check', tree, out / 'backends',
               'rng-backends^..rng-backends', 'qtest/qos-test',
               'unit/test-rng-backend', 'unit/test-rng-reader')
    assert done.returncode == 0, done.stderr
    assert '    Ok: 3' in done.stdout
