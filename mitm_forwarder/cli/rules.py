"""`mitm-forwarder test` and `mitm-forwarder rules`: what a rule list does, before it does it. They
ask nothing of a running gateway.
"""

from __future__ import annotations

import importlib
import json
import re
import ssl
import sys
import urllib.error
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import click

from mitm_forwarder import insight
from mitm_forwarder import options
from mitm_forwarder.cli.check import REINSTALL
from mitm_forwarder.cli.check import fetch_list
from mitm_forwarder.cli.check import name_failure
from mitm_forwarder.cli.run import report
from mitm_forwarder.logs import mask

if TYPE_CHECKING:
    from mitm_forwarder._core import Rules


def _core() -> Any:
    """Imported when needed: `mitm-forwarder check` must work where it cannot be."""
    try:
        return importlib.import_module("mitm_forwarder._core")
    except ImportError as error:
        raise click.ClickException(f"the C core cannot be loaded: {error}; {REINSTALL}") from None


def _load_config(source: str | None) -> options.Config:
    """Without the secrets, which may not even be there, unless it is the backend that is asked."""
    try:
        config = options.load(secrets=False)
        return options.load() if source in (None, config.blacklist_url) else config
    except options.ConfigError as error:
        report(error)
        sys.exit(2)


def _read(source: str | None) -> bytes:
    """The list's JSON. SYSTEM_TOKEN goes to the backend only, whatever URL is given."""
    if source is not None and not re.match(r"(?i)https?://", source):
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise click.ClickException(f"{source}: {error.strerror}") from None
    config = _load_config(source)
    url = source or config.blacklist_url
    try:
        body = fetch_list(config, url)
    except urllib.error.HTTPError as error:
        error.close()
        raise click.ClickException(f"{url}: status {error.code}") from None
    except (OSError, ValueError, ssl.SSLError) as error:
        text, _ = name_failure(getattr(error, "reason", None) or error)
        raise click.ClickException(f"{url}: {mask(text)}") from None
    if len(body) > config.blacklist_max_bytes:
        raise click.ClickException(f"{url}: more than BLACKLIST_MAX_BYTES")
    return body


def _load(source: str | None) -> Rules:
    body = _read(source)
    try:
        loaded: Rules = _core().Rules(body)
    except ValueError as error:
        raise click.ClickException(f"{source or 'the backend'}: {error}") from None
    return loaded


# ---- mitm-forwarder test


@click.command()
@click.argument("url")
@click.option("--rules", "source", metavar="FILE", help="A list other than the backend's.")
def test(url: str, source: str | None) -> None:
    """Which rule would match URL?

    Says in which form it matches, and how long that took; exit status 0 in any case, 1 where the
    URL or the list cannot be read.
    """
    try:
        parts = insight.split_url(url)
        raw, canonical = _core().forms(*parts)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    rules = _load(source)
    rules.match(*parts)  # compiles what is compiled at its first use
    click.echo(f"raw:       {raw}")
    click.echo(f"canonical: {canonical}")
    click.echo(insight.describe(rules.match(*parts)))


# ---- mitm-forwarder rules


@click.group()
def rules() -> None:
    """Examine rule lists, and rehearse a change of them."""


@rules.command()
@click.argument("source", required=False, metavar="[FILE|URL]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(source: str | None, as_json: bool) -> None:
    """What is wrong with the rules of a FILE, a URL or the backend?

    Invalid, never matching, matching everything, tried for every URL, in quarantine, twice there;
    exit status 1 when a rule is invalid.
    """
    loaded = _load(source)
    findings = list(insight.examine(loaded))
    kinds = Counter(finding.kind for finding in findings)
    if as_json:
        rows = [
            {"kind": f.kind, "id": f.rule_id, "text": f.text, "pattern": f.pattern}
            for f in findings
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for finding in findings:
            pattern = f": {finding.pattern}" if finding.pattern else ""
            click.echo(f"{finding.kind:<11} rule {finding.rule_id} {finding.text}{pattern}")
        counts = "".join(f", {count} {kind}" for kind, count in sorted(kinds.items()))
        empty = "" if loaded.report()["given"] else ": the list is empty, nothing is blocked"
        click.echo(f"{loaded.report()['given']} rules, {len(loaded)} in force{counts}{empty}")
    sys.exit(1 if kinds["invalid"] else 0)


def _url_in(line: str) -> str | None:
    """Of an activity record, of a line of a JSON log, or the first URL of any other line."""
    if line.startswith("{"):
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            return None
        found = (record.get(name) for name in ("target_url", "url", "message", "msg"))
        line = next((text for text in found if isinstance(text, str)), "")
    match = re.search(r"https?://[^\s\"'<>]+", line, re.IGNORECASE)
    return match[0] if match else None


def _read_urls(path: Path) -> tuple[Counter[str], int]:
    """URLs with their numbers, and how many lines had none."""
    urls: Counter[str] = Counter()
    without = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            url = _url_in(line.strip())
            if url is not None:
                urls[url] += 1
            elif line.strip():
                without += 1
    return urls, without


@rules.command()
@click.argument("old")
@click.argument("new")
@click.option(
    "--urls",
    "log",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Recorded URLs: a log of the gateway, activity records, or a URL a line.",
)
def diff(old: str, new: str, log: Path) -> None:
    """What would change for recorded URLs if the list OLD became the list NEW?

    Each of the two is a file or a URL. Prints a line for every URL that would be blocked (+) or
    allowed (-) from then on.
    """
    before, after = _load(old), _load(new)
    urls, without = _read_urls(log)
    if not urls:
        # "Nothing would change" would be taken for a good result.
        raise click.ClickException(f"{log}: no URL in it")
    changes: Counter[str] = Counter()
    unreadable = 0
    for url, count in urls.items():
        try:
            parts = insight.split_url(url.removesuffix("?…"))
            was, becomes = before.match(*parts), after.match(*parts)
        except ValueError:
            unreadable += count
            continue
        if (was[0] is None) == (becomes[0] is None):
            continue
        sign, verdict = ("-", was) if becomes[0] is None else ("+", becomes)
        changes[sign] += 1
        changes[f"{sign}requests"] += count
        click.echo(f"{sign} {url} ({count}x) rule {verdict[1]}: {verdict[2]}")
    click.echo(
        f"{len(urls)} URLs of {urls.total()} requests: {changes['+']} would be blocked"
        f" ({changes['+requests']} requests), {changes['-']} allowed ({changes['-requests']})"
    )
    if without or unreadable:
        click.echo(f"left out: {without} lines without a URL, {unreadable} that are answered 400")
    if cut := sum(url.endswith("?…") for url in urls):
        click.echo(f"{cut} URLs were logged without their query, and were matched without one")
