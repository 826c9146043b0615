# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests that are measured, and the EGD daemon that is their source."""

import functools
import socket
import subprocess
import sys
from contextlib import contextmanager

from testlib import bare_metal
from testlib.machine import machine
from testlib.programs import compile_c

EGD = 'rng-egd,chardev=egd'     # the backend for egd()


@contextmanager
def guest(directory, *args, **kwargs):
    """A bare-metal guest that runs for the time of the block."""
    vm = bare_metal.Guest(
        functools.partial(machine, directory), bare_metal.build(directory),
        directory, *args, **kwargs)
    try:
        yield vm
    except AssertionError:
        print(vm.log(), end='', file=sys.stderr)
        raise
    finally:
        vm.qemu.shutdown(hard=True)
        vm.ram.unlink(missing_ok=True)


@contextmanager
def egd(directory, rate=0):
    """An EGD daemon; yields its process and QEMU's -chardev for it."""
    path = directory / 'egd.socket'
    command = [compile_c('bench/egd.c', directory), str(rate)]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        with subprocess.Popen(command, stdin=listener) as daemon:
            try:
                yield daemon, ['-chardev', f'socket,id=egd,path={path}']
            finally:
                daemon.kill()
                path.unlink()
