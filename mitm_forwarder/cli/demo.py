"""`mitm-forwarder demo`: every part on this machine, and one request of each kind through them."""

from __future__ import annotations

import importlib.util
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mitm_forwarder.cli import stage

ACTIVITY_SECONDS = 15.0


@dataclass(frozen=True)
class Case:
    """A request and what must become of it."""

    name: str
    url: str
    token: str | None
    status: int
    error: str | None = None
    through_proxy: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of it: the client's view."""

    status: int
    error: str | None
    request_id: str | None


def send(parts: stage.Stage, case: Case) -> Outcome:
    """One request through the gateway, as a client without any special library sends it."""
    gateway = f"http://127.0.0.1:{parts.gateway_port}"
    tls = ssl.create_default_context(cafile=str(parts.gateway_ca))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({"http": gateway, "https": gateway}),
        urllib.request.HTTPSHandler(context=tls),
    )
    headers = {"Authorization": f"Bearer {case.token}"} if case.token else {}
    try:
        with opener.open(urllib.request.Request(case.url, headers=headers), timeout=40) as answer:
            return Outcome(answer.status, None, answer.headers.get("X-Request-ID"))
    except urllib.error.HTTPError as answer:
        body = answer.read()
        try:
            error = json.loads(body).get("error")
        except ValueError:
            error = None
        return Outcome(answer.code, error, answer.headers.get("X-Request-ID"))
    except OSError as error:
        return Outcome(0, str(error), None)


def run_cases(parts: stage.Stage) -> list[tuple[Case, Outcome]]:
    """In an order that lets one backend play all its parts."""
    http = f"http://127.0.0.1:{parts.target_ports['http']}"
    https = f"https://127.0.0.1:{parts.target_ports['https']}"
    token, bad = parts.token, "not-a-token-of-this-backend"
    results: list[tuple[Case, Outcome]] = []

    def play(case: Case) -> None:
        results.append((case, send(parts, case)))

    play(Case("allowed, http", f"{http}/hello", token, 200, through_proxy=True))
    play(Case("allowed, https", f"{https}/hello", token, 200, through_proxy=True))
    play(Case("blacklisted", "http://www.blocked.test/", token, 403, "blacklisted"))
    play(Case("no token", f"{http}/no-token", None, 401, "no_token"))
    play(Case("bad token", f"{http}/bad-token", bad, 401, "token_refused"))
    parts.admin_call("PATCH", f"/proxies/{parts.proxy_id}", {"is_working": False})
    play(Case("no proxy", f"{http}/no-proxy", token, 502, "no_proxy"))
    parts.administer("add-proxy", "127.0.0.1", str(parts.dead_port))
    play(Case("dead proxy", f"{http}/dead-proxy", token, 502, "proxy_unreachable"))
    return results


def wait_for_activity(parts: stage.Stage, count: int) -> list[dict[str, Any]]:
    """The backend's rows, oldest first: all of them, or as many as came in time."""
    deadline = time.monotonic() + ACTIVITY_SECONDS
    while True:
        rows: list[dict[str, Any]] = parts.admin_call("GET", "/activity")["items"]
        if len(rows) >= count or time.monotonic() > deadline:
            return sorted(rows, key=lambda row: int(row["id"]))
        time.sleep(0.1)


def is_right(case: Case, outcome: Outcome, row: dict[str, Any] | None) -> bool:
    """Status, error code and record are what they must be."""
    return (
        (outcome.status, outcome.error) == (case.status, case.error)
        and row is not None
        and row["status_code"] == case.status
        and (row["proxy_id"] is not None) == (case.through_proxy or case.name == "dead proxy")
    )


def report(results: list[tuple[Case, Outcome]], rows: list[dict[str, Any]]) -> bool:
    """Prints the two tables; were all right?"""
    by_url = {row["target_url"]: row for row in rows}
    good = True
    click.echo(f"\n{'request':<16}{'wanted':>7}{'got':>5}  {'error':<20}{'recorded':<10}")
    for case, outcome in results:
        row = by_url.get(case.url)
        right = is_right(case, outcome, row) and len(rows) == len(results)
        good = good and right
        click.echo(
            f"{case.name:<16}{case.status:>7}{outcome.status:>5}  {outcome.error or '-':<20}"
            f"{'yes' if row else 'NO':<10}{'ok' if right else 'WRONG'}"
        )
    click.echo("\nwhat the backend was told (GET /activity):")
    click.echo(f"{'user_id':>8}{'proxy_id':>9}{'status':>7}  {'method':<7}target_url")
    for row in rows:
        user, proxy = (
            str(row[key]) if row[key] is not None else "-" for key in ("user_id", "proxy_id")
        )
        click.echo(
            f"{user:>8}{proxy:>9}{row['status_code']:>7}  {row['method']:<7}{row['target_url']}"
        )
    return good


def show_how_to_try(parts: stage.Stage) -> None:
    """The lines to type while everything runs."""
    http = f"http://127.0.0.1:{parts.target_ports['http']}"
    https = f"https://127.0.0.1:{parts.target_ports['https']}"
    parts.admin_call("PATCH", f"/proxies/{parts.proxy_id}", {"is_working": True})
    gateway = f"127.0.0.1:{parts.gateway_port}"
    curl = f'curl -x http://{gateway} -H "Authorization: Bearer $TOKEN"'
    click.echo(
        f"""
Everything is still running. Try:

  TOKEN={parts.token}
  {curl} {http}/hello
  {curl} --cacert {parts.gateway_ca} {https}/hello
  {curl} http://www.blocked.test/
  curl -x "http://me:$TOKEN@{gateway}" {http}/hello
  curl -x http://{gateway} {http}/hello

backend: {parts.backend_url}/docs (SYSTEM_TOKEN={parts.system_token})
logs:    {parts.directory}

Ctrl-C ends it."""
    )


def checkout() -> Path:
    """Where `examples` is: the demo's parts are not in the wheel."""
    spec = importlib.util.find_spec("mitm_forwarder")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parents[1]
    if not (root / "examples" / "proxy_manager").is_dir():
        raise click.ClickException(
            "the demo needs a checkout of mitm-forwarder: clone it and type `make demo`"
        )
    return root


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running and show what to type.")
def demo(keep: bool) -> None:
    """Backend, upstream proxy, target and gateway on this machine; one request of each kind.

    The exit status is 0 only if each got the right answer and the right record.
    """
    root = checkout()
    stage.interrupt_on_sigterm()
    # Nothing may go around the gateway.
    os.environ.pop("no_proxy", None)
    os.environ.pop("NO_PROXY", None)
    click.echo("Starting backend, upstream proxy, target and gateway …")
    try:
        with stage.Stage(root) as parts:
            click.echo(f"The upstream proxy is {parts.proxy_program}.")
            results = run_cases(parts)
            good = report(results, wait_for_activity(parts, len(results)))
            if keep:
                show_how_to_try(parts)
                stage.wait_for_interrupt()
    except stage.StageError as error:
        raise click.ClickException(str(error)) from None
    if not good:
        raise click.ClickException("not everything was as it must be")
    click.echo("\nAll as it must be.")
