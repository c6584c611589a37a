"""Rules mean in the core what they mean to Python's ``re``.

Corpora: what CPython's own test suite asks of ``re``, as recorded in ``tests/rules/cpython.json``
and anew from the Python that runs this, and random patterns. Whatever differs has a name, and the
names are those of the table in ``docs/blacklist.md``.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.rules import casing
from tests.rules import fuzz
from tests.rules.tool import MATCH
from tests.rules.tool import NO_MATCH
from tests.rules.tool import ROOT
from tests.rules.tool import TOOL
from tests.rules.tool import Answer
from tests.rules.tool import Question
from tests.rules.tool import ask

BEYOND_ASCII = "subject beyond ASCII"
NAMED_CHARACTER = "character by name"
EMPTY_SUBJECT = r"\B on nothing"
TOO_LARGE = "too large"
STR_ESCAPE = r"\u in bytes"
GROUP_NAME = "group name beyond ASCII"

# The leftovers of the committed recording, by corpus.
LEFTOVERS = {
    "re_tests": {BEYOND_ASCII: 1},
    "str": {BEYOND_ASCII: 17, NAMED_CHARACTER: 7, EMPTY_SUBJECT: 1, TOO_LARGE: 2},
    "bytes": {},
    "refused": {STR_ESCAPE: 4, GROUP_NAME: 2},
}

Recording = dict[str, list[list[Any]]]


@pytest.fixture(scope="module")
def tool() -> Path:
    path = Path(os.environ.get("DIALECT_TOOL", TOOL))
    if not path.exists():
        pytest.skip(f"make {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return path


@pytest.fixture(scope="module")
def committed() -> Recording:
    return corpora(json.loads((ROOT / "tests/rules/cpython.json").read_text()))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """From the running Python."""
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_re") is None:
        pytest.skip("this Python comes without its own tests")
    path = tmp_path_factory.mktemp("recording") / "cpython.json"
    subprocess.run([sys.executable, "-m", "tests.rules.record", path], cwd=ROOT, check=True)
    return corpora(json.loads(path.read_text()))


def corpora(recording: dict[str, Any]) -> Recording:
    """Rows of [kind, pattern, flags, subject, result]; the result of what is refused is None."""
    searched = recording["searched"]
    return {
        "re_tests": recording["re_tests"],
        "str": [row for row in searched if row[0] == "str"],
        "bytes": [row for row in searched if row[0] == "bytes"],
        "refused": [[*row, "", None] for row in recording["refused"]],
    }


def question(row: list[Any]) -> Question:
    kind, pattern, flags, subject, _ = row
    # Bytes are the characters of Latin-1, and then the categories are those of ASCII.
    return Question(pattern, [subject], flags | (re.ASCII if kind == "bytes" else 0))


def agrees(row: list[Any], answer: Answer) -> bool:
    wanted = {True: MATCH, False: NO_MATCH, None: ""}[row[4]]
    return (answer.refusal is not None) == (row[4] is None) and answer.outcomes == wanted


def leftover(row: list[Any], answer: Answer) -> str | None:
    """Why the answer may differ from Python's, or None."""
    kind, pattern, _, subject, result = row
    if result is None:
        if kind == "bytes" and re.search(r"\\[uU]", pattern):
            return STR_ESCAPE
        return None if pattern.isascii() else GROUP_NAME
    if answer.refusal is not None and r"\N{" in pattern:
        return NAMED_CHARACTER
    if answer.refusal is not None and answer.refusal.endswith("too large"):
        return TOO_LARGE
    if not subject.isascii():
        return BEYOND_ASCII
    return EMPTY_SUBJECT if subject == "" and r"\B" in pattern else None


def differences(rows: list[list[Any]], tool: Path) -> dict[str, int]:
    """How many rows differ, by name; fails on one without a name."""
    named: collections.Counter[str] = collections.Counter()
    unnamed = []
    for row, answer in zip(rows, ask(map(question, rows), tool), strict=True):
        if agrees(row, answer):
            continue
        name = leftover(row, answer)
        if name is None:
            unnamed.append((row, answer))
        else:
            named[name] += 1
    assert not unnamed, "\n".join(f"{row}: {answer}" for row, answer in unnamed[:20])
    return dict(named)


@pytest.mark.parametrize("corpus", LEFTOVERS)
def test_what_cpython_tests(corpus: str, committed: Recording, tool: Path) -> None:
    assert len(committed[corpus]) > 390
    assert differences(committed[corpus], tool) == LEFTOVERS[corpus]


@pytest.mark.parametrize("corpus", LEFTOVERS)
def test_what_this_python_tests(corpus: str, recorded: Recording, tool: Path) -> None:
    assert len(recorded[corpus]) > 350
    differ = differences(recorded[corpus], tool)
    assert sum(differ.values()) <= 1.1 * sum(LEFTOVERS[corpus].values()) + 1


def test_case_beyond_ascii(tool: Path) -> None:
    """Every character that equals another one, alone and in a class, beside what re says."""
    questions, wanted = [], []
    for same in casing.equals():
        for c in (c for c in same if c >= casing.ASCII_END):
            subjects = [
                chr(other) for other in [*same, c - 1, c + 1] if not 0xD800 <= other < 0xE000
            ]
            for pattern in (re.escape(chr(c)), f"[{chr(c)}]", f"[{chr(c)}-{chr(c + 2)}]"):
                questions.append(Question(pattern, subjects, re.IGNORECASE))
                found = (re.fullmatch(pattern, subject, re.IGNORECASE) for subject in subjects)
                wanted.append("".join(NO_MATCH if match is None else MATCH for match in found))
    answers = ask(questions, tool)
    assert len(questions) > 8000
    assert [
        (question, answer.outcomes, outcomes)
        for question, answer, outcomes in zip(questions, answers, wanted, strict=True)
        if answer.outcomes != outcomes
    ] == []


def test_table_of_cases_is_as_it_was_written() -> None:
    assert (ROOT / "csrc/casing.c").read_text() == casing.text()


def test_table_in_the_documentation_has_the_names() -> None:
    text = (ROOT / "docs/blacklist.md").read_text()
    names = {name for corpus in LEFTOVERS.values() for name in corpus}
    for name in [*names, *fuzz.NAMED_REFUSALS, *fuzz.NAMED_DIFFERENCES]:
        assert f"| {name} |" in text, name


def test_random_patterns(tool: Path) -> None:
    """A sample; ``make fuzz-dialect`` is for hours."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.rules.fuzz", "--patterns", "3000", "--tool", str(tool)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    pairs = found["agree"]["match"] + found["agree"]["no match"]
    assert pairs > 5000 and found["agree"]["match"] > 1000
    assert sum(found["named"].values()) < 0.01 * pairs


def python_error(pattern: str) -> tuple[str, int | None] | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return error.msg, error.pos
    except OverflowError:
        pass
    return None


def test_refusals_are_pythons_own(committed: Recording, tool: Path) -> None:
    """The message and the position, where Python has one."""
    patterns = [row[1] for row in committed["refused"] if row[0] == "str" and row[1].isascii()]
    answers = zip(patterns, ask(map(Question, patterns), tool), strict=True)
    wanted = [(python_error(pattern), pattern, answer) for pattern, answer in answers]
    asked = [row for row in wanted if row[0] is not None and row[0][1] is not None]
    other = [row for row in asked if row[0] != (row[2].refusal, row[2].position)]
    assert len(asked) > 200
    assert len(other) < 0.1 * len(asked), other


def test_unnamed_differences_are_found(tmp_path: Path) -> None:
    """The comparison itself can fail."""
    row = ["str", "a", 0, "b", True]
    assert not agrees(row, Answer(NO_MATCH)) and agrees(row, Answer(MATCH))
    assert not agrees(row, Answer(refusal="bad", position=0))
    assert leftover(row, Answer(NO_MATCH)) is None
    stub = tmp_path / "tool"
    stub.write_text("#!/bin/sh\nread line; echo 'ok -N b'\n")
    stub.chmod(0o755)
    with pytest.raises(AssertionError, match="'a'"):
        differences([row], stub)
    assert fuzz.difference("a", "b", MATCH, False) == ""
    assert fuzz.difference("a", "b", NO_MATCH, True) == ""
    assert fuzz.difference("a", "b", MATCH, True) is None
    assert fuzz.difference("(?:b+){2}+", "bb", MATCH, False) == "possessive group"
    assert fuzz.difference("(?:b+){2}", "bb", MATCH, False) == ""
