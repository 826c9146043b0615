# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine of the tested QEMU, and what is asked of its monitor."""

import sys
import time

from testlib import KIND, OUT, TOP
from testlib.limits import HANG, until

# QEMU's own packages, of the tree that is tested.
sys.path.insert(0, str(OUT / 'qemu/python'))

from qemu.machine import QEMUMachine  # noqa: E402

# What has a machine not warn that TCG lacks some capabilities
TCG = TOP / 'guests/tcg.cfg'

# The device, whose id is the same in all machines
DEVICE = '/machine/peripheral/hrandom'

# What machine() takes for which others have keywords of their own
OPTIONS = ('accel', 'icount', 'build', 'firmware', 'wrapper')


class Machine(QEMUMachine):
    """One whose monitor has to answer; its `qmp_timer` is for the greeting."""

    def launch(self):
        super().launch()
        self._qmp.settimeout(HANG)


def machine(directory, *args, accel='tcg', icount=None, build=OUT / KIND,
            firmware='/usr/share/qemu', **kwargs):
    """
    A pseries machine under TCG; not yet launched.

    firmware: the directory, None for that of an installed QEMU
    """
    qemu = Machine(str(build / 'qemu-system-ppc64'),
                   base_temp_dir=directory, log_dir=directory,
                   qmp_timer=HANG, **kwargs)
    qemu.add_args(*(['-L', firmware] if firmware else []), '-nodefaults',
                  '-accel', accel, *(['-icount', icount] if icount else []),
                  '-machine', 'pseries', '-readconfig', str(TCG), *args)
    return qemu


def device(**properties):
    """The device, as -device takes it; a property's - is written _."""
    return ','.join(['spapr-rng', 'id=hrandom', *(
        f'{name.replace("_", "-")}={value}'
        for name, value in properties.items())])


def spapr_rng(backend='rng-random,filename=/dev/urandom', **properties):
    """Arguments for the device and its backend, which has the id rng0."""
    return ['-object', f'{backend},id=rng0',
            '-device', device(rng='rng0', **properties)]


def cpu_seconds(pid):
    """The processor time that a process has used."""
    # The clock of clock_getcpuclockid(3), which Python hasn't got; the ticks
    # in /proc/PID/stat are too coarse.
    return time.clock_gettime(~pid << 3 | 2)


def cpu_share(qemu, seconds=2):
    """How much of one core QEMU uses."""
    start, used = time.monotonic(), cpu_seconds(qemu.get_pid())
    time.sleep(seconds)
    return (cpu_seconds(qemu.get_pid()) - used) / (time.monotonic() - start)


def hmp(qemu, command):
    """A command of the human monitor that has nothing to say."""
    assert qemu.cmd('human-monitor-command', command_line=command) == ''


def statistic(guest, name):
    """What a guest's device has counted."""
    return guest.qemu.cmd('qom-get', path=DEVICE, property=name)


def set_property(guest, name, value):
    """Set one of the device, which QEMU must accept."""
    guest.qemu.cmd('qom-set', path=DEVICE, property=name, value=value)


def migration(qemu):
    """How far a migration has come, which must not fail."""
    status = qemu.cmd('query-migrate').get('status')
    assert status != 'failed'
    return status


def until_saved(qemu):
    """Wait for the end of a migration; until then, "cont" is refused."""
    until(lambda: migration(qemu) == 'completed' and
          qemu.cmd('query-status')['status'] == 'postmigrate')


def add_disk(qemu, directory):
    """A disk that can hold snapshots."""
    file = directory / 'disk'
    file.touch()
    qemu.cmd('blockdev-add', driver='file', filename=str(file),
             node_name='file')
    qemu.cmd('blockdev-create', job_id='job', options={
        'driver': 'qcow2', 'file': 'file', 'size': 1 << 20})
    qemu.event_wait('JOB_STATUS_CHANGE',
                    match={'data': {'status': 'concluded'}})
    qemu.cmd('job-dismiss', id='job')
    qemu.cmd('blockdev-add', driver='qcow2', file='file', node_name='disk')
