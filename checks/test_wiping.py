# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's memory does not keep the bytes that a guest got."""

import contextlib
import functools
import io
import re
import subprocess
from pathlib import Path

import pytest

from testlib import OUT
from testlib.egd import EgdDaemon
from testlib.limits import until
from testlib.machine import statistic

# Each word begins with these bytes. No other data contains them.
MARK = b'\x5c\xa1\xab\x1e\xfe\xed'
WORDS = 2000


@pytest.fixture
def guest(guest):
    # By default, there may be a gigabyte of translated code to search.
    return functools.partial(guest, accel='tcg,tb-size=32', timeout=0)


def source_bytes(first, end):
    return b''.join(MARK + i.to_bytes(2, 'big') for i in range(first, end))


def found(vm, stack=True):
    """
    Search QEMU's own memory, without the guest's, for the source's words.

    stack: search the main thread's stack as well

    Returns which words are there in the source's byte order, and how many
    words are there in the host's byte order.
    """
    words, numbers = set(), 0
    process = Path(f'/proc/{vm.qemu.get_pid()}')
    vm.qemu.cmd('stop')
    with open(process / 'mem', 'rb', 0) as memory:
        for line in (process / 'maps').read_text().splitlines():
            private = re.match(r'(\w+)-(\w+) .w.p', line)
            if private and (stack or '[stack]' not in line):
                begin, end = (int(number, 16) for number in private.groups())
                memory.seek(begin)
                data = memory.read(end - begin)
                words |= {int.from_bytes(rest, 'big') for rest in re.findall(
                    re.escape(MARK) + b'(..)', data, re.DOTALL)}
                numbers += data.count(MARK[::-1])
    vm.qemu.cmd('cont')
    return words, numbers


def check_wiped(vm, stack=True):
    """The guest gets all words, after which QEMU has none of them."""
    vm.finish()
    assert [value >> 16 for value in vm.values()] == \
        [int.from_bytes(MARK, 'big')] * WORDS
    words_left, numbers_left = found(vm, stack)
    assert words_left == set()
    # The last words are in the registers of a vCPU and on its stack.
    assert numbers_left < 10


@pytest.mark.parametrize('pool_size', [8, 4096])
def test_random(guest, fifo, pool_size):
    """
    QEMU wipes words when the guest gets them; words read ahead remain.

    The second half of the words come while calls wait for them.
    """
    vm = guest(fifo.backend, pool_size=pool_size)
    fifo.write(source_bytes(0, 1000))
    vm.call(500)
    vm.finish()
    words_left, numbers_left = found(vm)
    assert bool(words_left) == (pool_size > 8)
    assert words_left <= set(range(500, 1000)) and numbers_left < 10
    vm.call(500)
    vm.finish()
    for i in range(1000, WORDS, 100):
        waits = statistic(vm, 'waits')
        vm.call(100)
        until(lambda: statistic(vm, 'waits') > waits)
        fifo.write(source_bytes(i, i + 100))
        vm.finish()
    check_wiped(vm)


def test_egd(guest, tmp_path):
    """
    rng-egd keeps no words.

    The character device reads into a buffer on the main thread's stack, and
    does not wipe it.
    """
    with contextlib.closing(EgdDaemon(tmp_path / 'egd')) as daemon:
        source = io.BytesIO(source_bytes(0, WORDS))
        daemon.random = source.read
        daemon.start()
        vm = guest(*daemon.backend(), pool_size=8)
        vm.call(WORDS)
        check_wiped(vm, stack=False)


def test_reset(guest, fifo):
    """
    A reset wipes the words that the device has read ahead.

    The words in the backend remain: the next call gets the first one of them.
    """
    vm = guest(fifo.backend)
    fifo.write(source_bytes(0, 1000))
    vm.call(200)
    vm.finish()
    before = found(vm)[0]
    vm.reset()
    after = found(vm)[0]
    vm.call()
    vm.finish()
    first = vm.values()[-1] & 0xffff
    assert set() < set(range(200, first)) <= before
    assert not after & set(range(first))


@pytest.mark.parametrize('file, functions', [
    ('backends_rng.c', ['rng_backend_finalize',
                        'rng_backend_finalize_request']),
    ('backends_rng-reader.c', ['rng_reader_take', 'reader_thread']),
    ('hw_ppc_spapr_rng_pool.c', ['pool_compact', 'spapr_rng_pool_set_backend',
                                 'spapr_rng_pool_drop',
                                 'spapr_rng_pool_destroy'])])
def test_compiler(file, functions):
    """The compiler has not removed a wiping memset() as a dead store."""
    built, = OUT.glob(f'native/*/{file}.o')
    code = subprocess.check_output(['objdump', '-dr', built], text=True)
    wiping = {re.search(r'<(\w+)', function)[1]
              for function in code.split('\n\n')
              if re.search(r'\bmemset\b|\brep stos', function)}
    assert wiping >= set(functions)
