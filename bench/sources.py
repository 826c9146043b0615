# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources that are C programs: one gives known numbers, and one is fast."""

import os
import socket
import subprocess
from contextlib import contextmanager

from testlib.limits import until
from testlib.programs import compile_c


@contextmanager
def numbers(directory):
    """A FIFO that gives the numbers 1, 2, 3 and so on as 64-bit words."""
    program = compile_c('bench/count.c', directory)
    fifo = directory / 'fifo'
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDWR)
    with subprocess.Popen([program], stdout=fd) as feeder:
        try:
            yield fifo
        finally:
            feeder.kill()
            os.close(fd)


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
