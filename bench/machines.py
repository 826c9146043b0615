# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests that are measured, and programs that are their sources."""

import functools
import os
import socket
import subprocess
from contextlib import contextmanager

from testlib import TOP, bare_metal
from testlib.limits import until
from testlib.machine import machine
from testlib.programs import compile_c


def guest(directory, *args, **kwargs):
    """A running bare-metal guest."""
    return bare_metal.Guest(
        functools.partial(machine, directory), bare_metal.build(directory),
        directory, *args, **kwargs)


@contextmanager
def running(vm):
    """The guest for the time of the block."""
    try:
        yield vm
    finally:
        vm.qemu.shutdown(hard=True)
        vm.ram.unlink()


@contextmanager
def numbers(directory):
    """A FIFO that gives the numbers 1, 2, 3 and so on as 64-bit words."""
    fifo = directory / 'fifo'
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDWR)
    with subprocess.Popen([TOP / 'bench/count.py'], stdout=fd) as feeder:
        try:
            yield fifo
        finally:
            feeder.kill()
            os.close(fd)
            fifo.unlink()


def listens(path):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def egd(directory, *args):
    """An EGD daemon; yields its process and QEMU's -chardev for it."""
    path = directory / 'egd.socket'
    command = [compile_c('bench/egd.c', directory), path, *args]
    with subprocess.Popen(command) as daemon:
        try:
            until(lambda: listens(path))
            yield daemon, ['-chardev', f'socket,id=egd,path={path}']
        finally:
            daemon.kill()
            path.unlink(missing_ok=True)
