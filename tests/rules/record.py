"""Record what CPython's own tests ask of ``re``: ``python -m tests.rules.record OUT.json``.

Runs ``test.test_re`` with ``re._compile`` wrapped, so that every pattern, flag and subject that it
uses is noted together with what ``re.search`` says, and adds the table of ``test.re_tests``.
Needs a Python that has its ``test`` package.
"""

from __future__ import annotations

import io
import json
import re
import sys
import unittest
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Longer subjects say nothing new and would swell the file.
SUBJECT_MAX = 2000
PATTERN_MAX = 100_000
SEARCHES = frozenset({"search", "match", "fullmatch", "findall", "finditer", "split", "scanner"})
SUBSTITUTIONS = frozenset({"sub", "subn"})
# Locale patterns are not for str, DEBUG prints, UNICODE is what str has anyway.
UNASKED = re.LOCALE
UNTOLD = re.DEBUG | re.UNICODE


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


class Recorder:
    """Stands in for ``re._compile``."""

    def __init__(self, compile_pattern: Callable[[Any, Any], Any]) -> None:
        self.compile_pattern = compile_pattern
        self.searched: dict[tuple[str, str, int, str], None] = {}
        self.refused: dict[tuple[str, str, int], None] = {}

    def __call__(self, pattern: Any, flags: Any) -> Any:
        if isinstance(pattern, RecordedPattern):
            pattern = pattern.pattern_object
        try:
            compiled = self.compile_pattern(pattern, flags)
        except (re.error, OverflowError):
            if type(pattern) in (str, bytes) and not int(flags) & UNASKED:
                kind = type(pattern).__name__
                self.refused[kind, _text(pattern), int(flags) & ~UNTOLD] = None
            raise
        if type(getattr(compiled, "pattern", None)) in (str, bytes):
            return RecordedPattern(compiled, self)
        return compiled

    def note(self, compiled: re.Pattern[Any], subject: Any) -> None:
        pattern = compiled.pattern
        if type(subject) is not type(pattern) or compiled.flags & UNASKED:
            return
        if len(subject) <= SUBJECT_MAX and len(pattern) <= PATTERN_MAX:
            flags = compiled.flags & ~UNTOLD
            kind = type(pattern).__name__
            self.searched[kind, _text(pattern), int(flags), _text(subject)] = None


class RecordedPattern:
    """A compiled pattern that notes what it is asked to search."""

    def __init__(self, pattern_object: re.Pattern[Any], recorder: Recorder) -> None:
        self.pattern_object = pattern_object
        self.recorder = recorder

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.pattern_object, name)
        if name not in SEARCHES | SUBSTITUTIONS:
            return attribute
        place = 1 if name in SUBSTITUTIONS else 0

        def noting(*args: Any, **kwargs: Any) -> Any:
            subject = args[place] if len(args) > place else kwargs.get("string")
            if isinstance(subject, (bytearray, memoryview)):
                subject = bytes(subject)
            self.recorder.note(self.pattern_object, subject)
            return attribute(*args, **kwargs)

        return noting


def _matches(kind: str, pattern: str, flags: int, subject: str) -> bool:
    if kind == "bytes":
        return re.search(pattern.encode("latin-1"), subject.encode("latin-1"), flags) is not None
    return re.search(pattern, subject, flags) is not None


def record() -> dict[str, Any]:
    """The recording: "python", "re_tests" and "searched" with results, and "refused"."""
    from test import re_tests  # type: ignore[import-not-found]
    from test import test_re

    recorder = Recorder(re._compile)  # type: ignore[attr-defined]
    re._compile = recorder  # type: ignore[attr-defined]
    try:
        suite = unittest.defaultTestLoader.loadTestsFromModule(test_re)
        # Some tests look at the pattern's type or memory and fail; what they ask is noted.
        unittest.TextTestRunner(stream=io.StringIO(), verbosity=0).run(suite)
    finally:
        re._compile = recorder.compile_pattern  # type: ignore[attr-defined]
    table = []
    for pattern, subject, *_ in re_tests.tests:
        try:
            table.append(["str", pattern, 0, subject, _matches("str", pattern, 0, subject)])
        except re.error:
            table.append(["str", pattern, 0, subject, None])
    return {
        "python": sys.version.split()[0],
        "re_tests": table,
        "searched": [[*asked, _matches(*asked)] for asked in recorder.searched],
        "refused": [list(pattern) for pattern in recorder.refused],
    }


def write(recording: dict[str, Any], path: Path) -> None:
    """As JSON with a line for each case."""
    parts = []
    for key, value in recording.items():
        rows = ",\n".join(map(json.dumps, value)) if isinstance(value, list) else None
        parts.append(f"{json.dumps(key)}: {json.dumps(value) if rows is None else f'[{rows}]'}")
    path.write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write(record(), Path(sys.argv[1]))
