# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers that guests/bare-metal/*.h define, under the same names."""

import re

from testlib import TOP

for _header in (TOP / 'guests/bare-metal').glob('*.h'):
    globals().update((name, int(value, 0)) for name, value in re.findall(
        r'^#define (\w+) +(\w+)', _header.read_text(), re.M))
