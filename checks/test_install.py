# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU of "make install", run from the directory of its installation."""

import socket
import subprocess

from testlib.bare_metal import source_bytes, word
from testlib.install import PREFIX, install
from testlib.machine import URANDOM, hmp


def test_features(guest, installed, tmp_path):
    """The device works with user networking, VNC and a compressed disk."""
    def run(tool, *args):
        subprocess.run([installed / 'bin' / tool, *args], cwd=tmp_path,
                       check=True)

    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
        'compression_type=zstd', 'disk', '1M')
    run('qemu-io', '-c', 'write -c 0 64k', 'disk')
    vm = guest(URANDOM, '-nic', 'user,model=virtio-net-pci',
               '-vnc', f'unix:{tmp_path}/vnc', '-drive',
               f'file={tmp_path}/disk,if=none', cpus=2,
               build=installed / 'bin', firmware=None)
    vm.call(1000)
    vm.finish()
    assert len({*vm.values(0), *vm.values(1)}) == 2000
    net = vm.qemu.cmd('human-monitor-command', command_line='info usernet')
    assert 'Protocol[State]' in net
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f'{tmp_path}/vnc')
        assert client.recv(12).startswith(b'RFB 003.')
    hmp(vm.qemu, 'savevm state')
    vm.quit()
    run('qemu-img', 'check', 'disk')


def test_tls(guest, installed, fifo, tmp_path, request):
    """An EGD daemon on another host gets commands and sends words with TLS."""
    fifo.write(source_bytes(0, 1000))
    key = 32 * 'a'
    (tmp_path / 'keys.psk').write_text(f'qemu:{key}\n')
    with socket.create_server(('localhost', 0)) as free:
        port = free.getsockname()[1]
    with open(fifo.path, 'rb') as words:
        daemon = subprocess.Popen(
            ['openssl', 's_server', '-accept', f'localhost:{port}', '-nocert',
             '-psk', key, '-psk_identity', 'qemu', '-naccept', '1', '-quiet'],
            stdin=words, stdout=subprocess.PIPE)
    request.addfinalizer(daemon.kill)
    vm = guest('rng-egd,chardev=egd', '-object', 'tls-creds-psk,id=tls,'
               f'endpoint=client,username=qemu,dir={tmp_path}', '-chardev',
               f'socket,id=egd,host=localhost,port={port},tls-creds=tls,'
               'reconnect-ms=50', timeout=0,
               build=installed / 'bin', firmware=None)
    vm.call(1000)
    vm.finish()
    vm.quit()
    assert vm.values() == [word(i) for i in range(1000)]
    assert daemon.stdout.read(1) == b'\2'


def test_uninstall(tmp_path):
    """Exactly the installed files are removed; the user's own files stay."""
    def files():
        return {f'/{path.relative_to(tmp_path)}'
                for path in tmp_path.rglob('*') if not path.is_dir()}

    data = tmp_path / PREFIX[1:] / 'share/qemu'
    data.mkdir(parents=True)
    (data / 'stranger').touch()
    stranger = files()
    assert install('add', tmp_path).returncode == 0
    listed = (data / 'installed-files').read_text().splitlines()
    assert f'{PREFIX}/share/man/man1/qemu.1' in listed
    assert sorted(listed) == sorted(files() - stranger)
    assert install('remove', tmp_path).returncode == 0
    assert files() == stranger
    assert not (tmp_path / PREFIX[1:] / 'bin').exists()
    again = install('remove', tmp_path)
    assert again.returncode == 1 and len(again.stderr.splitlines()) == 1
    assert 'give the PREFIX= and DESTDIR=' in again.stderr
