# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU of "make install", run from the directory of its installation."""

import contextlib
import socket
import ssl
import subprocess

from testlib.egd import EgdDaemon
from testlib.install import PREFIX, install
from testlib.machine import URANDOM, add_disk, hmp


class TlsDaemon(EgdDaemon):
    """A daemon that uses TLS, on a TCP port."""

    def __init__(self, directory):
        super().__init__(directory / 'unused')
        key, certificate = directory / 'key.pem', directory / 'ca-cert.pem'
        subprocess.run(
            ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
             '-days', '2', '-subj', '/CN=localhost', '-addext',
             'subjectAltName=DNS:localhost', '-addext',
             'keyUsage=digitalSignature,keyCertSign', '-keyout', key, '-out',
             certificate], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self.port = None

    def _listen(self):
        listener = socket.create_server(('localhost', 0))
        self.port = listener.getsockname()[1]
        return self._context.wrap_socket(listener, server_side=True)


def test_features(guest, installed, tmp_path):
    """The device works with user networking, VNC and qcow2."""
    vm = guest(URANDOM, '-nic', 'user,model=virtio-net-pci',
               '-vnc', f'unix:{tmp_path}/vnc', cpus=2,
               build=installed / 'bin', firmware=None)
    vm.call(1000)
    vm.finish()
    assert len({*vm.values(0), *vm.values(1)}) == 2000
    net = vm.qemu.cmd('human-monitor-command', command_line='info usernet')
    assert 'Protocol[State]' in net
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f'{tmp_path}/vnc')
        assert client.recv(12).startswith(b'RFB 003.')
    add_disk(vm.qemu, tmp_path)
    hmp(vm.qemu, 'savevm state')
    vm.quit()


def test_tls(guest, installed, tmp_path):
    """QEMU connects to the EGD daemon with TLS, as to another host."""
    with contextlib.closing(TlsDaemon(tmp_path)) as daemon:
        daemon.start()
        vm = guest('rng-egd,chardev=egd', '-object',
                   f'tls-creds-x509,id=tls,endpoint=client,dir={tmp_path}',
                   '-chardev',
                   f'socket,id=egd,host=localhost,port={daemon.port},'
                   'tls-creds=tls,reconnect-ms=50', timeout=0,
                   build=installed / 'bin', firmware=None)
        vm.call(1000)
        vm.finish()
        assert b''.join(value.to_bytes(8, 'big')
                        for value in vm.values()) == daemon.given[:8000]
        vm.quit()


def test_tools(installed, tmp_path):
    """The installed tools make and check a compressed disk."""
    for tool, *args in [['qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
                         'compression_type=zstd', 'disk', '1M'],
                        ['qemu-io', '-c', 'write -c 0 64k', 'disk'],
                        ['qemu-img', 'check', 'disk']]:
        subprocess.run([installed / 'bin' / tool, *args], cwd=tmp_path,
                       check=True)


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
