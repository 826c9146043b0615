#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the numbers from 1 on, each as eight bytes, most significant first."""

import array
import itertools
import os
import sys

for first in itertools.count(1, 8192):
    words = array.array('Q', range(first, first + 8192))
    if sys.byteorder == 'little':
        words.byteswap()
    os.write(sys.stdout.fileno(), words)    # to a pipe, which takes all
