"""Ask the C core about patterns and subjects, by way of ``tests/c/dialect_tool.c``."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "build" / "gcc" / "dialect_tool"

# The numbers of csrc/pattern.h.
FLAGS = {re.ASCII: 1, re.IGNORECASE: 2, re.MULTILINE: 4, re.DOTALL: 8, re.VERBOSE: 16}

MATCH, NO_MATCH, LIMIT = "M", "N", "L"


@dataclass(frozen=True)
class Question:
    """A pattern with the flags of ``re.compile``, and the subjects to search."""

    pattern: str
    subjects: Sequence[str] = ()
    flags: int = 0


@dataclass(frozen=True)
class Answer:
    """One letter for each subject; or where and why the pattern was refused."""

    outcomes: str = ""
    translation: str = ""
    refusal: str | None = None
    position: int = -1


def _hex(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").hex() or "-"


def _line(question: Question) -> str:
    flags = sum(ours for theirs, ours in FLAGS.items() if question.flags & theirs)
    return " ".join([str(flags), *map(_hex, (question.pattern, *question.subjects))]) + "\n"


def _answer(line: str) -> Answer:
    if line.startswith("ok -"):
        outcomes, _, translation = line[len("ok -") :].partition(" ")
        return Answer(outcomes, translation)
    refused, position, reason = line.split(" ", 2)
    assert refused == "refused", line
    return Answer(refusal=reason, position=int(position))


def ask(questions: Iterable[Question], tool: Path = TOOL) -> list[Answer]:
    """The answers in order.

    :raises subprocess.CalledProcessError: the tool ended with an error, or leaked memory
    """
    asked = "".join(map(_line, questions))
    done = subprocess.run([tool], input=asked.encode(), stdout=subprocess.PIPE, check=True)
    answers = [_answer(line) for line in done.stdout.decode("latin-1").split("\n")[:-1]]
    assert len(answers) == asked.count("\n")
    return answers
