# SPDX-License-Identifier: GPL-2.0-or-later
"""The names that guests/bare-metal/*.h give to numbers."""

import re

from testlib import TOP

for _header in (TOP / 'guests/bare-metal').glob('*.h'):
    globals().update((name, int(value, 0)) for name, value in re.findall(
        r'^#define (\w+) +(\w+)', _header.read_text(), re.M))
