# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of a call by the guest's own clock."""

import pytest

from testlib.hcalls import H_RANDOM, H_UNASSIGNED
from testlib.limits import best_run
from testlib.machine import URANDOM

CALLS = 100000
ROUNDS = 8


def seconds_per_call(vm, opcode, cpus=(0,)):
    vm.call(CALLS, opcode, cpus, record=False)
    vm.finish()
    return vm.seconds(cpus) / CALLS / len(cpus)


@pytest.mark.parametrize('backend', [URANDOM, 'rng-builtin'],
                         ids=['random', 'builtin'])
def test_call(guest, capsys, backend):
    """A call costs little more than a hypercall that does nothing.

    If each call had to wake another thread, the ratio would be below 0.01; with
    a system call for each call, below 0.2.
    """
    vm = guest(backend)

    def run():
        # Measure both in turn, so that other load affects both equally.
        null, random = zip(*[[seconds_per_call(vm, opcode)
                              for opcode in (H_UNASSIGNED, H_RANDOM)]
                             for _ in range(ROUNDS)])
        ratio = min(null) / min(random)
        with capsys.disabled():
            print(f'\n{backend}: '
                  f'H_RANDOM {min(random) * 1e9:.0f} ns, '
                  f'null hypercall {min(null) * 1e9:.0f} ns, '
                  f'ratio {ratio:.2f}', end=' ')
        return ratio

    assert best_run(run, 0.4) >= 0.4


def test_two_vcpus(guest, capsys):
    """
    Two vCPUs slow each other down no more than with any other hypercall.

    The vCPUs contend for the BQL, which each hypercall takes.
    """
    vm = guest('rng-builtin', cpus=2)

    def run():
        rates = {}
        for cpus in ([0], [0, 1]):
            for opcode in (H_UNASSIGNED, H_RANDOM):
                rates[len(cpus), opcode] = 1e-6 / min(
                    seconds_per_call(vm, opcode, cpus) for _ in range(ROUNDS))
        with capsys.disabled():
            print('\nmillion calls/s of 1 and 2 vCPUs: H_RANDOM '
                  f'{rates[1, H_RANDOM]:.1f} {rates[2, H_RANDOM]:.1f}, '
                  f'null hypercall {rates[1, H_UNASSIGNED]:.1f} '
                  f'{rates[2, H_UNASSIGNED]:.1f}', end=' ')
        return rates[2, H_RANDOM] / rates[2, H_UNASSIGNED]

    # The ratio is 0.5 if system calls are slow, as one vCPU reads while others
    # wait. It would be far below 0.01 if each call had to wake another thread.
    assert best_run(run, 0.2) >= 0.2
