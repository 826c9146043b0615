# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of the tested QEMU, and commands to its monitor."""

import sys
import time

from testlib import KIND, OUT, TOP
from testlib.limits import HANG, until

# QEMU's Python packages: in the tested tree and, since QEMU 11.0, in its build
sys.path[1:1] = map(str, [OUT / 'qemu/python', *(OUT / KIND).glob(
    'pyvenv/lib/python3*/site-packages')])

from qemu.machine import QEMUMachine  # noqa: E402

# Turns off the capabilities that TCG lacks, about which QEMU warns otherwise.
TCG = TOP / 'guests/tcg.cfg'

# A backend without its id, as for -object
URANDOM = 'rng-random,filename=/dev/urandom'

# The QOM path of the device, which has the same id in all machines
DEVICE = '/machine/peripheral/hrandom'

# The options of machine(). A caller with further keyword arguments, which are
# properties of the device, tells both apart by these names.
OPTIONS = ('accel', 'icount', 'build', 'firmware', 'wrapper')


class Machine(QEMUMachine):
    """A machine whose monitor must answer each command within HANG.

    QEMUMachine applies its `qmp_timer` only to the greeting.
    """

    def launch(self):
        super().launch()
        self.settimeout(HANG)

    def settimeout(self, seconds):
        self._qmp.settimeout(seconds)

    @property
    def _harness_args(self):
        """The monitor as QEMU 7.2 knows it, which lacks monitor-qmp.

        A newer QEMU warns that -mon is deprecated.
        """
        args = super()._harness_args
        if args and 'qemu-7.2' in self._binary:
            return [*args[:-2], '-mon', 'chardev=mon,mode=control']
        return args


def machine(directory, *args, accel='tcg', icount=None, build=OUT / KIND,
            firmware='/usr/share/qemu', **kwargs):
    """
    A pseries machine under TCG; the caller launches it.

    build: the directory of the QEMU binary
    firmware: the directory of the firmware; None: QEMU's default
    """
    qemu = Machine(str(build / 'qemu-system-ppc64'),
                   base_temp_dir=directory, log_dir=directory,
                   qmp_timer=HANG, **kwargs)
    qemu.add_args(*(['-L', firmware] if firmware else []), '-nodefaults',
                  '-accel', accel, *(['-icount', icount] if icount else []),
                  '-machine', 'pseries', '-readconfig', str(TCG), *args)
    return qemu


def device(**properties):
    """The device, as for -device; in names of properties, _ means -."""
    return ','.join(['spapr-rng', 'id=hrandom', *(
        f'{name.replace("_", "-")}={value}'
        for name, value in properties.items())])


def spapr_rng(backend=URANDOM, **properties):
    """The arguments for the device and for its backend rng0."""
    return ['-object', f'{backend},id=rng0',
            '-device', device(rng='rng0', **properties)]


def cpu_seconds(pid):
    """The processor time that a process has used."""
    # The id of a process's clock, as clock_getcpuclockid(3) computes it, which
    # Python lacks. The ticks in /proc/PID/stat are too coarse.
    return time.clock_gettime(~pid << 3 | 2)


def cpu_share(qemu, seconds=2):
    """The share of one core that QEMU uses, measured for some seconds."""
    start, used = time.monotonic(), cpu_seconds(qemu.get_pid())
    time.sleep(seconds)
    return (cpu_seconds(qemu.get_pid()) - used) / (time.monotonic() - start)


def hmp(qemu, command):
    """Execute a command of the human monitor, which must print nothing."""
    assert qemu.cmd('human-monitor-command', command_line=command) == ''


def statistic(guest, name):
    """A statistic of the device of a guest."""
    return guest.qemu.cmd('qom-get', path=DEVICE, property=name)


def set_property(guest, name, value):
    """Set a property of the device, which QEMU must accept."""
    guest.qemu.cmd('qom-set', path=DEVICE, property=name, value=value)


def migration(qemu):
    """The status of a migration, which must not have failed."""
    status = qemu.cmd('query-migrate').get('status')
    assert status != 'failed'
    return status


def until_event(qemu, name):
    """Wait for an event; return its data."""
    # QEMU's package ignores a timeout that is an int.
    event = qemu.event_wait(name, timeout=float(HANG))
    assert event
    return event['data']


def until_saved(qemu):
    """Wait for the end of a migration; before, QEMU refuses "cont"."""
    until(lambda: migration(qemu) == 'completed' and
          qemu.cmd('query-status')['status'] == 'postmigrate')


def add_disk(qemu, directory):
    """Add a disk, to which savevm can write snapshots."""
    path = directory / 'disk'
    path.touch()
    format_disk(qemu, path)


def format_disk(qemu, path):
    """Make an empty file such a disk, and add it."""
    file = {'driver': 'file', 'filename': str(path)}
    qemu.cmd('blockdev-create', job_id='job', options={
        'driver': 'qcow2', 'file': file, 'size': 1 << 20})
    until(lambda: qemu.cmd('query-jobs')[0]['status'] == 'concluded')
    qemu.cmd('job-dismiss', id='job')
    qemu.cmd('blockdev-add', driver='qcow2', file=file, node_name='disk')
