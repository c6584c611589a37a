"""Random patterns, heavy on the exotic parts of the syntax, and URL-like subjects for them."""

from __future__ import annotations

import random
import re

LITERALS = "abcABkKsSi12/-_&=%:, "
PUNCTUATION = ".?{}[]()*+^$|\\# "
SUBJECT = "aabbccABkKsSi12./-_?&=%:, "
ESCAPES = (
    r"\d \w \s \D \W \S \b \B \A \Z \n \t \v \a \f \x61 \x2f \141 \061 \0 \01 \1 \2 \u0061 "
    r"\U00000062 \12 \101 \- \. \/ \ "
).split(" ")
CLASS_ESCAPES = r"\d \w \s \D \W \S \. \- \] \[ \b \n \v \x61 \141 \0 \t \^ \\".split()
CLASS_ODDITIES = ["[", "]", "-", "&&", "--", "||", "[:alpha:]", "[.", "=]", "^", "[:", ".", r"\\"]
COUNTS = (
    "{2}|{0,2}|{1,}|{,2}|{1,3}|{0}|{1}|{,}|{x}|{|{2|{0,1}|{3,2}|{12}|{2,}|{65535}|{4294967295}"
    "|{ 1}|{1, 2}"
).split("|")
FLAG_GROUPS = ["(?i:", "(?s:", "(?m:", "(?-i:", "(?x:", "(?a:", "(?u:", "(?i-s:", "(?ms-ix:"]
ODD_GROUPS = ["(?#c)", "(?i)", "(?s)", "(?m)", "(?x)", "(?L)", "(?u)", "(?a)", "(?<n>a)", "(?&n)"]
LEADING_FLAGS = ["(?i)", "(?s)", "(?m)", "(?x)", "(?is)", "(?ai)", "(?i)(?m)", "(?#c)(?i)", "(?u)"]


class Generator:
    """Patterns and subjects from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names = 0

    def pattern(self) -> str:
        self.names = 0
        text = self._alternatives(2)
        if self.random.random() < 0.2:
            text = self._one_of(LEADING_FLAGS) + text
        return f"^.*{text}.*$" if self.random.random() < 0.2 else text

    def subject(self, pattern: str) -> str:
        """Random, with words of the pattern spliced in, so that something matches."""
        text = "".join(self._one_of(SUBJECT) for _ in range(self.random.randint(0, 24)))
        if self.random.random() < 0.1:
            text = self._splice(text, "\n")
        words = re.findall(r"[a-zA-Z0-9/_=&%:]+", pattern)
        for _ in range(self.random.randint(0, 4) if words else 0):
            text = self._splice(text, self._one_of(words))
        return text

    def _one_of(self, choices: list[str] | str) -> str:
        return self.random.choice(choices)

    def _splice(self, text: str, part: str) -> str:
        place = self.random.randint(0, len(text))
        return text[:place] + part + text[place:]

    def _literal(self) -> str:
        common = self.random.random() < 0.92
        char = self._one_of(LITERALS if common else PUNCTUATION)
        if char in PUNCTUATION and char != " ":
            return "\\" + char if self.random.random() < 0.8 else char
        return "\\" + char if self.random.random() < 0.05 and not char.isalnum() else char

    def _class(self) -> str:
        text = "[" + ("^" if self.random.random() < 0.25 else "")
        for _ in range(self.random.randint(1, 4)):
            roll = self.random.random()
            if roll < 0.5:
                text += self._one_of("abcABksKS12./_?&=:")
            elif roll < 0.7:
                text += self._one_of(["a-c", "A-B", "0-9", "a-z", "A-Z", "!-~", "c-a", r"\d-z"])
            elif roll < 0.85:
                text += self._one_of(CLASS_ESCAPES)
            else:
                text += self._one_of(CLASS_ODDITIES)
        return text + "]"

    def _repeat(self) -> str:
        roll = self.random.random()
        text = self._one_of("*+?") if roll < 0.75 else self._one_of(COUNTS)
        return text + self._one_of(["", "", "", "?", "+"])

    def _atom(self, depth: int) -> str:
        roll = self.random.random()
        if roll < 0.45:
            return "".join(self._literal() for _ in range(self.random.randint(1, 5)))
        if roll < 0.55:
            return "."
        if roll < 0.65:
            return self._class()
        if roll < 0.75:
            return self._one_of(ESCAPES)
        if roll < 0.79:
            return self._one_of("^$")
        return self._group(depth) if depth > 0 else self._literal()

    def _group(self, depth: int) -> str:
        inner = self._alternatives(depth - 1)
        roll = self.random.random()
        if roll < 0.33:
            return f"({inner})"
        if roll < 0.52:
            return f"(?:{inner})"
        if roll < 0.62:
            self.names += 1
            return f"(?P<n{self.names}>{inner})"
        if roll < 0.69:
            return f"(?P=n{max(1, self.names)})"
        if roll < 0.79:
            return self._one_of(["(?=", "(?!", "(?<=", "(?<!"]) + inner + ")"
        if roll < 0.84:
            return f"(?>{inner})"
        if roll < 0.92:
            return self._one_of(FLAG_GROUPS) + inner + ")"
        if roll < 0.96:
            group = self._one_of(["1", "2", "n1"])
            return f"(?({group}){self._sequence(depth - 1)}|{self._sequence(depth - 1)})"
        return self._one_of(ODD_GROUPS)

    def _sequence(self, depth: int) -> str:
        parts = []
        for _ in range(self.random.randint(1, 4)):
            repeat = self._repeat() if self.random.random() < 0.3 else ""
            parts.append(self._atom(depth) + repeat)
        return "".join(parts)

    def _alternatives(self, depth: int) -> str:
        count = 1 if self.random.random() < 0.75 else self.random.randint(2, 3)
        return "|".join(self._sequence(depth) for _ in range(count))
