"""Random patterns in the core and in Python's ``re``: ``python -m tests.rules.fuzz --seconds 600``.

Prints a JSON object: how many pairs agree, how many differ in a way that has a name, and
every other one in full.  Runs on the main thread, as only there a search that takes Python for ever
can be ended.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tests.rules.generate import Generator
from tests.rules.tool import LIMIT
from tests.rules.tool import MATCH
from tests.rules.tool import TOOL
from tests.rules.tool import Answer
from tests.rules.tool import Question
from tests.rules.tool import ask

BATCH = 200
SUBJECTS = 5
PYTHON_SECONDS = 0.5

# Why the core may refuse what Python accepts; the reason begins with this.
NAMED_REFUSALS = (
    "lookbehind assertion is not fixed length",  # a repeated (?=...) or (^) in a look-behind
    "lookbehind assertion is too long",
    "regular expression is too large",  # a group repeated thousands of times
    "a repeat of more than 65535 times is not supported",
)
NAMED_DIFFERENCES = ("limit", "python gave up", r"\B on nothing", "possessive group")


class PythonTookTooLong(Exception):
    """Python's ``re`` has no limit of its own."""


def _alarm(_signal: int, _frame: FrameType | None) -> None:
    raise PythonTookTooLong


def python_matches(pattern: re.Pattern[str], subject: str) -> bool | None:
    """None: no answer in good time, or "please report a bug for the re module"."""
    try:
        signal.setitimer(signal.ITIMER_REAL, PYTHON_SECONDS)
        return pattern.search(subject) is not None
    except (PythonTookTooLong, SystemError):
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def difference(pattern: str, subject: str, outcome: str, matches: bool | None) -> str | None:
    """The name of a difference, "" for one without, None if there is none."""
    if outcome == LIMIT:
        return "limit"
    if matches is None:
        return "python gave up"
    if (outcome == MATCH) == matches:
        return None
    if subject == "" and r"\B" in pattern:
        return r"\B on nothing"  # 3.14 has changed it; a URL is never empty
    # Python does not go back into the first of these: r"(?:b+){2}+" finds nothing in "bb", while
    # r"(?>(?:b+){2})", which is to be the same, does.
    return "possessive group" if re.search(r"\)\{[0-9,]+\}\+", pattern) else ""


def compare(question: Question, answer: Answer) -> Iterator[tuple[str, str, str]]:
    """(kind, name, detail) for the pattern and for each subject."""
    try:
        pattern = re.compile(question.pattern)
    except (re.error, OverflowError, ValueError) as error:
        refusal = f"Python: {error}; {answer}"
        yield ("agree", "refused", "") if answer.refusal else ("differ", question.pattern, refusal)
        return
    if answer.refusal is not None:
        named = answer.refusal.startswith(NAMED_REFUSALS)
        yield "named" if named else "differ", answer.refusal, question.pattern
        return
    yield "agree", "accepted", ""
    for subject, outcome in zip(question.subjects, answer.outcomes, strict=True):
        matches = python_matches(pattern, subject)
        name = difference(question.pattern, subject, outcome, matches)
        if name is None:
            yield "agree", "match" if matches else "no match", ""
        else:
            detail = f"{question.pattern!r} on {subject!r}: {outcome}, Python {matches}"
            yield "named" if name else "differ", name, f"{detail}; {answer.translation}"


def run(seed: int, seconds: float, patterns: int, tool: Path) -> dict[str, object]:
    """Until `seconds` are over or `patterns` are done (0: no such limit)."""
    signal.signal(signal.SIGALRM, _alarm)
    generator = Generator(seed)
    counts: dict[str, collections.Counter[str]] = {
        kind: collections.Counter() for kind in ("agree", "named", "differ")
    }
    different = []
    done, end = 0, time.monotonic() + seconds
    while (not patterns or done < patterns) and (not seconds or time.monotonic() < end):
        questions = []
        for _ in range(BATCH):
            pattern = generator.pattern()
            questions.append(
                Question(pattern, [generator.subject(pattern) for _ in range(SUBJECTS)])
            )
        for question, answer in zip(questions, ask(questions, tool), strict=True):
            for kind, name, detail in compare(question, answer):
                counts[kind][name] += 1
                if kind == "differ":
                    different.append([name, detail])
        done += BATCH
    return {"seed": seed, "patterns": done, **counts, "different": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--patterns", type=int, default=0)
    parser.add_argument("--tool", type=Path, default=TOOL)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = run(arguments.seed, arguments.seconds, arguments.patterns, arguments.tool)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["different"]))


if __name__ == "__main__":
    main()
