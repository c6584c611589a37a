"""README.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mitm_forwarder import errors
from mitm_forwarder import options

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
ROWS = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", README, re.MULTILINE)
# Said in words there.
IN_WORDS = {"FASTAPI_CA_BUNDLE", "TURBO", "SYSTEM_TOKEN"}


def test_every_variable_has_its_row() -> None:
    assert sorted(name for name, _ in ROWS) == sorted(v.name for v in options.VARIABLES)


@pytest.mark.parametrize("name, default", ROWS)
def test_defaults(name: str, default: str) -> None:
    variable = next(v for v in options.VARIABLES if v.name == name)
    if name not in IN_WORDS:
        assert default == ("–" if variable.default is None else f"`{variable.default}`")


@pytest.mark.parametrize("reason", errors.ANSWERS)
def test_every_answer_is_explained(reason: str) -> None:
    (status,) = {
        row[0]
        for row in re.findall(r"^\| ([\d, ]+) \| (`.*?`) \|", README, re.MULTILINE)
        if f"`{reason}`" in row[1]
    }
    assert str(errors.ANSWERS[reason].status) in status
