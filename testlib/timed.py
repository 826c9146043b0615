# SPDX-License-Identifier: GPL-2.0-or-later
"""State machines of Hypothesis for a program whose timing varies."""

import functools
import sys
import traceback
from collections import Counter

from hypothesis.stateful import RuleBasedStateMachine, rule


class Found(Exception):
    """An example found a fault."""


def guarded(function):
    """Note what fails; after that, do nothing.

    Hypothesis wants the same values to have the same effect. So it sees all
    examples end in teardown(), wherever timing makes a fault show.
    """
    @functools.wraps(function)
    def run(self, **values):
        self.taken[function.__name__] += 1
        if self.fault:
            return
        self.steps.append(f'{function.__name__}({values})')
        try:
            function(self, **values)
            self.check()
        except Exception:
            self.fault = traceback.format_exc(-3, chain=False)
    return run


def step(**arguments):
    return lambda function: rule(**arguments)(guarded(function))


class TimedStateMachine(RuleBasedStateMachine):
    """
    A machine whose steps are guarded.

    A subclass has check(), which follows each step; settle() and clean_up(),
    which end an example; and give_up(), which follows a fault, and returns
    what else is known of it. settle() and the first step are guarded, too.

    taken: how often each step was taken, on which preconditions may depend
    """

    found = False
    examples = 0

    def __init__(self):
        super().__init__()
        type(self).examples += 1
        self.taken = Counter()
        self.steps = []
        self.fault = None

    def teardown(self):
        """The end of an example, which Hypothesis may have cut short."""
        cut_short = sys.exc_info()[0]
        if self.steps:
            self.settle()
        self.clean_up()
        if not self.fault:
            return
        self.fault += self.give_up()
        if not self.found:
            print(f'Example {self.examples}, the steps:', *self.steps)
            print(self.fault)
        type(self).found = True
        if not cut_short:
            raise Found(self.fault)
