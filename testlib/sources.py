# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources in trouble, and what QEMU says of them."""

from pathlib import Path

from testlib import KIND
from testlib.limits import until
from testlib.machine import cpu_share

INTERVAL = 30   # seconds in which QEMU reports a source at most once

# The most processor time of a QEMU that waits, as a share of a core. A QEMU
# that spins uses far more. With sanitizers, QEMU is several times slower.
IDLE_SHARE = 0.05 if KIND == 'native' else 0.15


def random_backend(path):
    return f'rng-random,filename={path}'


def trouble(path, what='end of file'):
    return f"rng-random 'rng0': cannot read '{path}': {what}; " \
        'requests wait until it gives data'


RECOVERY = "rng-random 'rng0' gives data again"


def state(vm):
    """What QEMU tells programs of the source."""
    return vm.qemu.cmd('qom-get', path='/objects/rng0', property='state')


def descriptors(vm, path):
    """The numbers of QEMU's descriptors of a file."""
    return [fd.name for fd in Path(f'/proc/{vm.qemu.get_pid()}/fd').iterdir()
            if fd.resolve() == path]


def waits_quietly(vm, said):
    """Check that the call waits, QEMU is idle, and its messages are `said`."""
    assert vm.calls_wait()
    until(lambda: vm.reports() == said)
    # Other load may keep the caches cold, which needs another try.
    assert any(cpu_share(vm.qemu) < IDLE_SHARE for _ in range(3))
    assert vm.calls_wait() and vm.count() == 0
    assert vm.reports() == said
