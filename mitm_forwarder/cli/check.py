"""`mitm-forwarder check`: is everything there that the gateway needs? A line for each part, with
what to do next where it fails. Changes nothing.
"""

from __future__ import annotations

import datetime
import importlib
import json
import socket
import ssl
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mitm_forwarder import options
from mitm_forwarder.logs import mask

PROBE_TIMEOUT = 10.0  # seconds; somebody is watching
REINSTALL = "run `make build` in a checkout, or install the wheel again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `ok` None: not looked at. `hint` says what to do next."""

    part: str
    ok: bool | None
    text: str
    hint: str = ""


def check_configuration() -> tuple[options.Config | None, list[Finding]]:
    try:
        config = options.load()
    except options.ConfigError as error:
        hint = "set it in the environment or in .env"
        return None, [Finding("configuration", False, line, hint) for line in error.problems]
    return config, [Finding("configuration", True, f"backend {config.fastapi_base_url}")]


def check_libraries() -> Finding:
    try:
        versions: dict[str, str] = importlib.import_module("mitm_forwarder._core").versions()
    except Exception as error:
        return Finding("libraries", False, f"the C core cannot be loaded: {error}", REINSTALL)
    return Finding("libraries", True, ", ".join(f"{k} {v}" for k, v in versions.items()))


def check_mitmproxy() -> Iterator[Finding]:
    hint = "install a tested version, for example: pip install 'mitmproxy==12.2.3'"
    try:
        compat = importlib.import_module("mitm_forwarder.compat")
        version = importlib.import_module("mitmproxy.version").VERSION
        result = compat.check()
    except Exception as error:
        yield Finding("mitmproxy", False, f"cannot be examined: {error}", hint)
        return
    for problem in result.errors:
        yield Finding("mitmproxy", False, problem, hint)
    if not result.errors:
        yield Finding("mitmproxy", True, "; ".join([version, *result.warnings]))


# ---- backend


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The gateway follows none either: a redirect could carry the token elsewhere."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _tls(config: options.Config) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.fastapi_ca_bundle)
    if config.fastapi_client_cert:
        # With a password given, an encrypted key is an error instead of a question.
        context.load_cert_chain(config.fastapi_client_cert, config.fastapi_client_key, password="")
    return context


def fetch_list(config: options.Config, url: str) -> bytes:
    """At most one byte more than BLACKLIST_MAX_BYTES. SYSTEM_TOKEN goes with it only to the URL of
    the configuration. Raises what urllib does.
    """
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        _NoRedirect,
        urllib.request.HTTPSHandler(context=_tls(config)),
    )
    request = urllib.request.Request(url)
    if url == config.blacklist_url:
        request.add_header("Authorization", f"Bearer {config.system_token}")
    with opener.open(request, timeout=min(PROBE_TIMEOUT, config.httpx_timeout)) as response:
        body: bytes = response.read(config.blacklist_max_bytes + 1)
    return body


def _status_hint(status: int) -> str:
    if status in (401, 403):
        return "the backend does not accept SYSTEM_TOKEN: compare it with the backend's own"
    if status in (404, 405):
        return "correct FASTAPI_BASE_URL or FASTAPI_BLACKLIST_ENDPOINT"
    if 300 <= status < 400:
        return "redirects are not followed: set FASTAPI_BASE_URL or the endpoint to the final URL"
    return "look into the backend's log"


def name_failure(reason: object) -> tuple[str, str]:
    """Text and hint for an exception of the network."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        hint = "set FASTAPI_CA_BUNDLE to the PEM file of the CA that signed it"
        return f"its certificate is not trusted ({reason.verify_message})", hint
    if isinstance(reason, ssl.SSLError):
        hint = "compare http:// or https:// in FASTAPI_BASE_URL, and the client certificate"
        return f"TLS failed ({reason.reason or reason})", hint
    if isinstance(reason, socket.gaierror):
        return "its name is unknown", "correct the host in FASTAPI_BASE_URL"
    if isinstance(reason, TimeoutError):
        return "no answer in time", "is it running, and may this machine reach it?"
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return text or type(reason).__name__, "start the backend, or correct FASTAPI_BASE_URL"


def check_backend(config: options.Config) -> Finding:
    url = config.blacklist_url
    try:
        body = fetch_list(config, url)
    except urllib.error.HTTPError as error:
        error.close()
        return Finding("backend", False, f"{url}: status {error.code}", _status_hint(error.code))
    except Exception as error:
        text, hint = name_failure(getattr(error, "reason", None) or error)
        return Finding("backend", False, f"{url}: {mask(text)}", hint)
    if len(body) > config.blacklist_max_bytes:
        hint = "raise BLACKLIST_MAX_BYTES"
        return Finding("backend", False, f"{url}: more than BLACKLIST_MAX_BYTES", hint)
    try:
        rules = json.loads(body)
    except ValueError:
        rules = None
    if not isinstance(rules, list):
        hint = "correct FASTAPI_BASE_URL or FASTAPI_BLACKLIST_ENDPOINT"
        return Finding("backend", False, f"{url}: the answer is not a JSON list", hint)
    return Finding("backend", True, f"{url}: SYSTEM_TOKEN accepted, {len(rules)} rules")


# ---- this machine


def check_certificate(confdir: str) -> Finding:
    path = Path(confdir).expanduser() / "mitmproxy-ca-cert.pem"
    replace = f"remove {path.parent}/mitmproxy-ca*, start the gateway, install the new certificate"
    try:
        certs = importlib.import_module("mitmproxy.certs")
        expires = certs.Cert.from_pem(path.read_bytes()).notafter
    except FileNotFoundError:
        hint = "start `mitm-forwarder run` once: it makes one for the clients to install"
        return Finding("certificate", False, f"{path} does not exist", hint)
    except OSError as error:
        return Finding(
            "certificate", False, f"{path}: {error.strerror}", "let this user read the directory"
        )
    except Exception as error:
        return Finding("certificate", False, f"{path}: {error}", replace)
    days = (expires - datetime.datetime.now(datetime.UTC)).days
    if days < 0:
        return Finding("certificate", False, f"{path} expired on {expires:%Y-%m-%d}", replace)
    return Finding("certificate", True, f"{path}, until {expires:%Y-%m-%d} ({days} days)")


def check_directory(part: str, variable: str, path: str) -> Finding:
    existing = Path(path)
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        text = f"{path}: {existing} cannot be written to ({error.strerror})"
        return Finding(part, False, text, f"let this user write there, or set {variable}")
    return Finding(part, True, path if str(existing) == path else f"{path}, made at the start")


def check_spool(config: options.Config) -> Finding:
    if not config.activity_spool_dir:
        return Finding("spool", True, "memory only: a restart loses what was not delivered")
    return check_directory("spool", "ACTIVITY_SPOOL_DIR", config.activity_spool_dir)


# ---- the command


def examine(confdir: str) -> Iterator[Finding]:
    """All parts in turn, each as soon as it is known."""
    config, findings = check_configuration()
    yield from findings
    yield check_libraries()
    yield from check_mitmproxy()
    if config is None:
        for part in ("backend", "state", "spool"):
            yield Finding(part, None, "not looked at without a configuration")
    else:
        yield check_backend(config)
        yield check_directory("state", "STATE_DIR", config.state_dir)
        yield check_spool(config)
    yield check_certificate(confdir)


def render(finding: Finding, marks: dict[bool | None, str], arrow: str) -> str:
    """The line; exceptions' texts may have several."""
    text = " ".join(f"{marks[finding.ok]} {finding.part:<14}{finding.text}".split("\n"))
    return f"{text} {arrow} {finding.hint}" if finding.hint else text


def _symbols() -> tuple[dict[bool | None, str], str]:
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower()
    if sys.stdout.isatty() and encoding.startswith("utf"):
        return {True: "✓", False: "✗", None: "-"}, "→"
    return {True: "ok  ", False: "FAIL", None: "skip"}, "->"


@click.command()
@click.option(
    "--confdir",
    default="~/.mitmproxy",
    show_default=True,
    help="Where mitmproxy keeps its certificate authority.",
)
def check(confdir: str) -> None:
    """Check configuration, libraries, backend, certificate and directories.

    A line for each, with what to do next; the exit status is 0 only if all is well.
    """
    marks, arrow = _symbols()
    failed = False
    for finding in examine(confdir):
        click.echo(render(finding, marks, arrow))
        failed = failed or finding.ok is not True
    sys.exit(1 if failed else 0)
