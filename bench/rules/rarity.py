"""Writes csrc/rarity.c: how surprising each byte of a URL is after the one before it.

Reads URLs, one a line, and prints the C file::

    apt-cache dumpavail | sed -n 's/^Homepage: //p' | sort -u | python3 bench/rules/rarity.py

That command made the table in the tree (30,000 home pages of Debian packages): real URLs that
anybody can get again.  The table decides how fast the index is, never what it finds.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections import Counter

CLASSES = "abcdefghijklmnopqrstuvwxyz0.-/:_%=&?\x00"
OTHER = len(CLASSES) - 1
DIGIT = CLASSES.index("0")
# In eighths of a bit, as the C code counts.  What is rarer than 1 in 256 counts as that, so that a
# pair the sample happens to lack does not outweigh everything else.
UNIT = 8
MOST = 8 * UNIT

HEAD = """\
/* Made by bench/rules/rarity.py from {urls} URLs; see there. */
#include "rarity.h"

const uint8_t rarity_class[256] = {{
{classes}}};

const uint8_t rarity_cost[RARITY_CLASSES][RARITY_CLASSES] = {{
{costs}}};
"""


def class_of(character: str) -> int:
    """The index into CLASSES; digits are one class, and so is all that a URL seldom holds."""
    if character.isdigit():
        return DIGIT
    place = CLASSES.find(character.lower())
    return place if place >= 0 else OTHER


def costs(urls: list[str]) -> list[list[int]]:
    """Eighths of a bit for each class after each."""
    pairs: Counter[tuple[int, int]] = Counter()
    for url in urls:
        classes = [class_of(character) for character in url]
        pairs.update(itertools.pairwise(classes))
    table = []
    for before in range(len(CLASSES)):
        total = sum(pairs[before, after] + 1 for after in range(len(CLASSES)))
        row = []
        for after in range(len(CLASSES)):
            bits = -math.log2((pairs[before, after] + 1) / total)
            # One class, ten digits.
            bits += math.log2(10) if after == DIGIT else 0
            row.append(max(1, min(MOST, round(bits * UNIT))))
        table.append(row)
    return table


def texts(urls: list[str]) -> list[str]:
    """Each host and each path once: half of the sample is on two hosts."""
    hosts = {re.sub(r"(://[^/]*).*", r"\1", url) for url in urls}
    paths = {re.sub(r"^\w+://[^/]*", "", url) for url in urls}
    return sorted(hosts | paths)


def rows(numbers: list[int], width: int) -> str:
    """C initialiser lines."""
    lines = [numbers[i : i + width] for i in range(0, len(numbers), width)]
    return "".join("    " + ", ".join(map(str, line)) + ",\n" for line in lines)


def main() -> None:
    urls = [line.strip() for line in sys.stdin if line.strip()]
    table = costs(texts(urls))
    classes = [class_of(chr(byte)) if byte < 128 else OTHER for byte in range(256)]
    body = "".join(
        "    {\n" + re.sub("^", "    ", rows(row, 19), flags=re.M).rstrip(" ") + "    },\n"
        for row in table
    )
    sys.stdout.write(HEAD.format(urls=len(urls), classes=rows(classes, 16), costs=body))


if __name__ == "__main__":
    main()
