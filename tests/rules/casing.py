"""Write ``csrc/casing.c``: ``python -m tests.rules.casing``.

What equals a character beyond ASCII where case does not count, by the rules of the Python that
runs this: its tables of small letters and of extra cases. 3.11 to 3.13 have the same.
"""

from __future__ import annotations

import _sre  # type: ignore[import-not-found]
from re import _casefix  # type: ignore[attr-defined]

from tests.rules.tool import ROOT

ASCII_END = 0x80
HEAD = """#include "casing.h"

/* Written by tests/rules/casing.py. */
const struct case_run case_runs[] = {
    // clang-format off
"""


def equals() -> list[list[int]]:
    """Each set of two characters or more that are the same to ``re.IGNORECASE``."""
    lowered: dict[int, set[int]] = {}
    for c in range(0x110000):
        lowered.setdefault(_sre.unicode_tolower(c), set()).add(c)
    found: dict[int, list[int]] = {}
    for small in lowered:
        same = {small, *_casefix._EXTRA_CASES.get(small, ())}
        whole = sorted(set().union(*(lowered.get(c, set()) for c in same)))
        if len(whole) > 1:
            found[whole[0]] = whole
    return list(found.values())


def runs() -> list[list[int]]:
    """Rows of first, last, step and the distance to the other; ASCII is only ever the other."""
    pairs = sorted(
        (c, other)
        for same in equals()
        for c in same
        for other in same
        if c >= ASCII_END and c != other and not chr(other) < "a"
    )
    rows: list[list[int]] = []
    for c, other in pairs:
        for row in rows[-4:]:
            step = c - row[1]
            if row[3] == other - c and (step == row[2] or (row[0] == row[1] and step <= 2)):
                row[1:3] = [c, step]
                break
        else:
            rows.append([c, c, 1, other - c])
    return rows


def text() -> str:
    """The file."""
    cells = [f"{{{low:#x}, {high:#x}, {step}, {to}}}," for low, high, step, to in runs()]
    lines, line = [], "   "
    for cell in [*cells, "{0, 0, 0, 0},"]:
        if len(line) + 1 + len(cell) > 100:
            lines.append(line)
            line = "   "
        line += f" {cell}"
    return HEAD + "\n".join([*lines, line]) + "\n    // clang-format on\n};\n"


if __name__ == "__main__":
    (ROOT / "csrc/casing.c").write_text(text())
