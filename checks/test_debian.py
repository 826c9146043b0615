# SPDX-License-Identifier: GPL-2.0-or-later
"""The device in a whole Debian: systemd, udev, sshd, rngd and kexec use it.

guests/debian/build installs the Debian.
"""

import base64
import re
import shlex
import subprocess

import pytest

from testlib import GUESTS, OUT, TOP
from testlib.egd import EgdDaemon
from testlib.limits import HANG, until
from testlib.linux import CURRENT, JOB, Guest
from testlib.machine import migration, spapr_rng, statistic

pytestmark = pytest.mark.debian

DEBIAN = GUESTS / 'debian'
FULL = OUT / 'full'     # the build of QEMU that has user networking

# The time limit for many commands, each of which hangs after HANG
LONG = 10 * HANG

MANUAL = (TOP / 'docs/system/ppc/spapr-rng.rst').read_text()

# A process that adds a line to a file for each read, until a read fails; wait
# until it has read at least twice
READER = (': >/run/read; while dd if=/dev/hwrng of=/dev/null bs=4096 count=4 '
          'iflag=fullblock; do echo >>/run/read; done >/dev/null 2>&1 &')
UNTIL_READ = ('n=$(wc -l </run/read); until '
              '[ $(wc -l </run/read) -gt $((n + 1)) ]; do sleep 0.1; done')
SIZE = 65536
READ = f'test $(head -c {SIZE} /dev/hwrng | wc -c) -eq {SIZE}'

KEXEC = ('kexec -l /boot/vmlinux --initrd=/boot/initrd '
         '--command-line="$(cat /proc/cmdline)" && systemctl kexec')


class Debian(Guest):
    """A booted Debian, where a check types commands at systemd's debug shell.

    The shell is on the console hvc1.
    """

    CONSOLE = 'spapr-vty'

    def wait_until_ready(self):
        """Wait for the shell, which starts early, and for the boot's end."""
        while b'# ' not in self._received:
            assert self._receive(LONG), 'no shell'
        print(self._received.decode(errors='replace'))
        self._received = b''
        job = base64.b64encode(JOB.encode()).decode()
        self.type(f'echo {job} | base64 -d >/run/job; echo; exec sh /run/job')
        self.lines_until('--- ready')
        state = self.run('systemctl is-system-running --wait', LONG)
        assert state == (['running'], 0), self.run('systemctl --failed')

    def until(self, command):
        """Repeat a command until it succeeds."""
        until(lambda: self.run(command)[1] == 0, LONG)

    def assert_no_trouble(self):
        """Check that the kernel has reported no bug."""
        assert self.run("dmesg | grep -E 'WARNING: CPU|BUG:|Oops'") == ([], 1)


@pytest.fixture
def boot(pseries, tmp_path):
    """A function that boots a Debian. All Debians of a test have one disk.

    The installed disk, which is below it, is never booted, and does not
    change. The kernel's watchdog is off: on a busy host, it would report a
    hang.
    """
    disk = tmp_path / 'disk'
    subprocess.run([FULL / 'qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
                    DEBIAN / 'disk.img', '-F', 'raw', disk], check=True)

    def start(*args, log='console', **kwargs):
        return Debian(pseries(
            '-machine', 'x-vof=on', '-cpu', 'POWER9', '-m', '1G', '-smp', '2',
            '-kernel', str(DEBIAN / 'vmlinux'),
            '-initrd', str(DEBIAN / 'initrd'), '-append',
            'root=/dev/vda rw console=hvc0 nowatchdog '
            'systemd.debug_shell=hvc1',
            '-serial', f'file:{tmp_path / log}', '-nic', 'user', '-drive',
            f'file={disk},format=qcow2,if=virtio,cache=unsafe',
            *args, build=FULL), **kwargs)
    return start


def feed_each_second(guest):
    """Have rngd feed the kernel each second, even if it has enough entropy.

    By default, rngd then feeds the kernel once a minute.
    """
    guest.sh("printf '%s\\n' HRNGDEVICE=/dev/hwrng "
             "'RNGDOPTIONS=\"--feed-interval=1 --random-step=2500\"' "
             '>/etc/default/rng-tools-debian; '
             'systemctl restart rng-tools-debian', LONG)


def fed(guest):
    """The bits that rngd gave the kernel, which it tells when it is asked."""
    def told():
        return guest.sh('journalctl -q -o cat -t rngd | grep -o '
                        "'bits sent to kernel.*: [0-9]*' || true")

    before = len(told())
    guest.sh('kill -USR1 $(pidof rngd)')
    until(lambda: len(told()) > before, LONG)
    return int(told()[-1].split()[-1])


def test_silent_source(boot, tmp_path):
    """With the manual's drop-in, rngd is started again; rmmod ends, too."""
    egd = EgdDaemon(tmp_path / 'egd')
    egd.start()
    backend, *args = egd.backend('reconnect-ms=100')
    guest = boot(*args, *spapr_rng(backend, pool_size=8))
    unit, = re.findall(r'^   (\[Service\]\n(?:   .*\n)+)', MANUAL, re.M)
    directory = '/etc/systemd/system/rng-tools-debian.service.d'
    guest.sh(f"mkdir {directory}; printf '%s\\n' "
             f"{shlex.join(unit.split())} >{directory}/restart.conf; "
             'systemctl daemon-reload', LONG)
    feed_each_second(guest)
    egd.silent = True
    guest.until('test $(systemctl show -P NRestarts rng-tools-debian) -gt 0')
    egd.silent = False
    before = statistic(guest, 'bytes')
    guest.until('systemctl is-active rng-tools-debian')
    until(lambda: fed(guest) >= 100000, LONG)
    assert statistic(guest, 'bytes') > before

    guest.sh('systemctl stop rng-tools-debian', LONG)
    waits, timeouts = (statistic(guest, name)
                       for name in ('waits', 'timeouts'))
    egd.silent = True
    guest.sh('head -c 8192 /dev/hwrng >/dev/null 2>&1 &')
    until(lambda: statistic(guest, 'waits') > waits)
    guest.sh('rmmod pseries_rng', LONG)
    assert statistic(guest, 'timeouts') > timeouts
    assert guest.sh(f'cat {CURRENT}') == ['none']
    egd.silent = False
    # The events that udev also handles for each device at boot
    guest.sh('udevadm trigger --settle --action=add --subsystem-match=vio',
             LONG)
    guest.until(READ)
    guest.assert_no_trouble()
    egd.stop()


def test_switching(boot):
    """Switching between the device and virtio-rng lets no read fail."""
    guest = boot(*spapr_rng(), '-device', 'virtio-rng-pci,rng=rng0')
    guest.sh(READER)
    for _ in range(10):
        for current in 'virtio_rng.0', 'pseries_rng':
            guest.sh(f'echo {current} >{CURRENT}', LONG)
            assert guest.sh(f'cat {CURRENT}') == [current]
            guest.sh(UNTIL_READ, LONG)
    guest.sh('kill $!')

    for current, least, most in [['pseries_rng', SIZE, SIZE + 16384],
                                 ['virtio_rng.0', 0, 16384]]:
        guest.sh(f'echo {current} >{CURRENT}; {READ}')
        before = statistic(guest, 'bytes')
        guest.sh(READ)
        assert least <= statistic(guest, 'bytes') - before <= most
    guest.assert_no_trouble()


def test_restarts(boot):
    """Reboots and kexec work, and keep the ssh keys of the first boot."""
    guest = boot(*spapr_rng())
    keys = guest.sh('cat /etc/ssh/ssh_host_*_key.pub')
    for command, resets in 2 * [('systemctl reboot', 1), (KEXEC, 0)]:
        guest.type(command)
        guest.wait_until_ready()
        assert resets == sum(
            event['event'] == 'RESET' and event['data']['guest']
            for event in guest.qemu.get_qmp_events())
        assert guest.sh(f'cat {CURRENT}') == ['pseries_rng']
        calls = statistic(guest, 'calls')
        guest.sh(READ)
        assert statistic(guest, 'calls') >= calls + SIZE / 8
        guest.assert_no_trouble()
    assert guest.sh('cat /etc/ssh/ssh_host_*_key.pub') == keys


def test_live_migration(boot, tmp_path):
    """Live migration, with rngd and a reader that reads all the time."""
    guest = boot(*spapr_rng())
    feed_each_second(guest)
    guest.sh(READER)
    guest.sh(UNTIL_READ, LONG)
    before = fed(guest)

    other = boot(*spapr_rng(), log='second-console',
                 incoming=f'unix:{tmp_path}/socket')
    # The downtime must not keep the migration of a slow host from ending.
    guest.qemu.cmd('migrate-set-parameters', downtime_limit=60000)
    guest.qemu.cmd('migrate', uri=f'unix:{tmp_path}/socket')
    until(lambda: migration(guest.qemu) == 'completed', LONG)
    until(lambda: other.qemu.cmd('query-status')['status'] == 'running', LONG)
    guest.quit()

    other.sh(UNTIL_READ, LONG)
    until(lambda: fed(other) > before, LONG)
    assert statistic(other, 'calls') > 0
    # The manual's command for guests that are restored from one state
    command, = re.findall('^ +# (perl .*)$', MANUAL, re.M)
    other.sh(command)
    other.assert_no_trouble()
