"""A strict reader of Prometheus' text format 0.0.4: an AssertionError for whatever is not as it
should be, also where Prometheus itself is lenient.
"""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass
from dataclasses import field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_HELP = re.compile(rf"# HELP ({_NAME}) ((?:[^\\]|\\[\\n])+)")
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge)")
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")
_ESCAPES = {r"\\": "\\", r"\n": "\n", r"\"": '"'}


@dataclass
class Page:
    """What it says; a sample is found by its name, or by name and the value of its label."""

    types: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)
    samples: dict[str | tuple[str, str], float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """The name of each metric's label."""

    def __getitem__(self, what: str | tuple[str, str]) -> float:
        return self.samples[what]


def _unescape(text: str) -> str:
    return re.sub(r"\\.", lambda match: _ESCAPES[match[0]], text)


def parse(text: str) -> Page:
    """Each metric once: its help, its type, then all of its samples, of which no two are alike."""
    page = Page()
    assert text.endswith("\n") and "\r" not in text
    lines = text[:-1].split("\n")
    at = 0
    while at < len(lines):
        helped, typed = _HELP.fullmatch(lines[at]), _TYPE.fullmatch(lines[at + 1])
        assert helped and typed and helped[1] == typed[1], lines[at : at + 2]
        name = helped[1]
        assert name not in page.types
        assert (typed[2] == "counter") == name.endswith("_total")
        page.types[name], page.helps[name] = typed[2], _unescape(helped[2])
        at += 2
        first = at
        while at < len(lines) and not lines[at].startswith("#"):
            _sample(page, name, lines[at])
            at += 1
        assert at > first, f"{name} has no sample"
    return page


def _sample(page: Page, name: str, line: str) -> None:
    match = _SAMPLE.fullmatch(line)
    assert match and match[1] == name, line
    value_text = match.groups()[-1]
    key: str | tuple[str, str] = name
    if match[2] is not None:
        ((label, value),) = re.findall(_LABEL, match[2])
        assert page.labels.setdefault(name, label) == label
        key = name, _unescape(value)
    assert key not in page.samples, line
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", value_text), line
    page.samples[key] = float(value_text)


def fetch(port: int, token: str | None = None, *, path: str = "/metrics") -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        return response.status, response.read()
    finally:
        connection.close()


def scrape(port: int, token: str | None = None) -> Page:
    """The page, read."""
    status, body = fetch(port, token)
    assert status == 200, body
    return parse(body.decode())
