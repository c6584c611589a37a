"""What is asked of the gateways: one column of the table each."""

from __future__ import annotations

from dataclasses import dataclass

KB, MB = 1000, 1_000_000


@dataclass(frozen=True)
class Case:
    """`count` requests in place of a slice of time: for bodies that take as long as a slice."""

    name: str
    kind: str = "plain"
    size: int = 1024
    rules: int = 1000
    delay: str = "0s"
    count: int = 0
    job: bool = False
    """Only for rows that ask the backend (and for the one that all are compared with)."""

    def flags(self, slice_: str) -> tuple[str, ...]:
        if self.count:
            return ("-count", str(self.count), "-clients", "1")
        return ("-duration", slice_)


CASES = {
    case.name: case
    for case in (
        Case("plain"),
        Case("tls", "tls"),
        Case("new", "new"),
        Case("h2", "h2"),
        Case("plain-100KB", size=100 * KB),
        Case("tls-100KB", "tls", size=100 * KB),
        Case("plain-100MB", size=100 * MB, count=3),
        Case("tls-100MB", "tls", size=100 * MB, count=3),
        Case("plain-200MB", size=200 * MB, count=2),
        Case("tls-200MB", "tls", size=200 * MB, count=2),
        Case("rules-0", rules=0, job=True),
        Case("rules-100k", rules=100_000, job=True),
        Case("backend-1ms", delay="1ms", job=True),
        Case("backend-10ms", delay="10ms", job=True),
        Case("backend-50ms", delay="50ms", job=True),
    )
}
