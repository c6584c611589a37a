"""`mitm-forwarder` as somebody at a terminal meets it."""

from __future__ import annotations

import datetime
import http.client
import http.server
import importlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import mitm_forwarder
from mitm_forwarder import options
from mitm_forwarder.cli import main
from tests.support.mitmdump import ROOT
from tests.support.mitmdump import Process

# `from mitm_forwarder.cli import check` is the command of that name.
check = importlib.import_module("mitm_forwarder.cli.check")
COMMAND = [sys.executable, "-m", "mitm_forwarder"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def run(*args: str) -> list[str]:
    return [*COMMAND, "run", "--", "--listen-host", "127.0.0.1", *args]


def status_through(port: int, url: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", url)
    status = connection.getresponse().status
    connection.close()
    return status


# ---- the group


def test_version_and_help() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"mitm-forwarder, version {mitm_forwarder.__version__}\n"
    result = CliRunner().invoke(main, ["-h"])
    assert result.exit_code == 0
    for name, command in main.commands.items():
        assert name in result.output and command.help
    assert {"run", "check"} <= set(main.commands)


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["ruin"]).exit_code == 2


def test_the_command_line_needs_no_mitmproxy_to_start() -> None:
    code = "import sys, mitm_forwarder.cli; sys.exit('mitmproxy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---- run


@pytest.mark.parametrize(
    ("env", "args", "config_yaml", "line"),
    [
        ({}, [], "", "SYSTEM_TOKEN: not set; allowed: "),
        ({"SYSTEM_TOKEN": "t", "HTTPX_TIMEOUT": "x"}, [], "", "HTTPX_TIMEOUT='x': not a number"),
        (
            {"SYSTEM_TOKEN": "t"},
            ["--set", "forwarder_httpx_timeout=x"],
            "",
            "forwarder_httpx_timeout='x': not a number",
        ),
        (
            {"SYSTEM_TOKEN": "t"},
            [],
            "forwarder_httpx_timeout: y\n",
            "forwarder_httpx_timeout='y': not a number",
        ),
    ],
    ids=["missing", "environment", "option", "config.yaml"],
)
def test_run_refuses_a_bad_configuration_before_it_listens(
    tmp_path: Path, env: dict[str, str], args: list[str], config_yaml: str, line: str
) -> None:
    (tmp_path / ".mitmproxy").mkdir()
    (tmp_path / ".mitmproxy" / "config.yaml").write_text(config_yaml)
    with Process(run("-p", "0", *args), cwd=tmp_path, env=env) as process:
        assert process.exit_status() == 2
    (only,) = process.text().splitlines()
    assert only.startswith(f"mitm-forwarder: {line}")


def test_run_tells_every_problem(tmp_path: Path) -> None:
    env = {"HTTPX_TIMEOUT": "x", "PROXY_RETRIES": "x"}
    with Process(run("-p", "0"), cwd=tmp_path, env=env) as process:
        assert process.exit_status() == 2
    assert len(process.text().splitlines()) == 3


def test_run_listens_where_the_configuration_says_and_ends_at_sigterm(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / ".env").write_text(
        f"SYSTEM_TOKEN=canary-token\nMITM_LISTEN_PORT={port}\nSHUTDOWN_TIMEOUT=0.1\n"
    )
    with Process(run(), cwd=tmp_path) as process:
        assert process.port() == port
        process.ca()
        # The addon is in place: no token is 401, where mitmproxy alone would be 502.
        assert status_through(port, "http://example.test/") == 401
        assert process.stop() == 0
    assert "canary-token" not in process.text()
    assert " << " not in process.text(), "the flow dump is on"


def test_run_leaves_the_last_word_to_mitmdumps_arguments(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("import logging\ndef running():\n    logging.info('mine runs')\n")
    args = ["-p", "0", "-s", str(script), "--set", "flow_detail=1", "~d shown.test"]
    env = {"SYSTEM_TOKEN": "t", "MITM_LISTEN_PORT": "1", "SHUTDOWN_TIMEOUT": "0.1"}
    with Process(run(*args), cwd=tmp_path, env=env) as process:
        port = process.port()
        assert port != 1
        process.wait_for("mine runs")
        assert status_through(port, "http://hidden.test/") == 401
        assert status_through(port, "http://shown.test/") == 401
        process.wait_for(r"GET http://shown\.test/\n\s+<< 401")
        assert process.stop() == 0
    assert "GET http://hidden.test/\n" not in process.text()


def test_run_passes_mitmdumps_own_usage_errors_on(tmp_path: Path) -> None:
    with Process(run("--no-such"), cwd=tmp_path, env={"SYSTEM_TOKEN": "t"}) as process:
        assert process.exit_status() == 1
    assert "mitm-forwarder run: error: unrecognized arguments: --no-such" in process.text()


# ---- check: the backend


class Backend(http.server.ThreadingHTTPServer):
    """Answers every GET the same way and remembers what it was sent."""

    daemon_threads = True
    answer: tuple[int, bytes] = (200, b"[]")
    extra: tuple[str, str] = ("X-Nothing", "")

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Backend

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header(*self.server.extra)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Not into the test's output."""


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def config(tmp_path: Path, url: str, **env: str) -> options.Config:
    environ = {"SYSTEM_TOKEN": "canary", "HOME": str(tmp_path), "FASTAPI_BASE_URL": url, **env}
    return options.load(None, environ, tmp_path)


def test_backend_is_asked_with_the_system_token_and_without_any_proxy(
    tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    backend.answer = (200, json.dumps([{"id": 1, "pattern": "a"}]).encode())
    finding = check.check_backend(config(tmp_path, backend.url))
    assert finding.ok is True and finding.text.endswith("SYSTEM_TOKEN accepted, 1 rules")
    assert backend.seen == [("/blacklist", "Bearer canary")]


@pytest.mark.parametrize(
    ("status", "body", "text", "hint"),
    [
        (401, b"", "status 401", "compare it with the backend's own"),
        (403, b"", "status 403", "compare it with the backend's own"),
        (404, b"", "status 404", "FASTAPI_BLACKLIST_ENDPOINT"),
        (500, b"", "status 500", "the backend's log"),
        (200, b"<html>", "the answer is not a JSON list", "FASTAPI_BASE_URL"),
        (200, b'{"detail": "x"}', "the answer is not a JSON list", "FASTAPI_BASE_URL"),
        (200, b"[" + b" " * 100 + b"]", "more than BLACKLIST_MAX_BYTES", "BLACKLIST_MAX_BYTES"),
    ],
)
def test_backend_answers_that_will_not_do(
    tmp_path: Path, backend: Backend, status: int, body: bytes, text: str, hint: str
) -> None:
    backend.answer = (status, body)
    finding = check.check_backend(config(tmp_path, backend.url, BLACKLIST_MAX_BYTES="64"))
    assert finding.ok is False and text in finding.text and hint in finding.hint


def test_backend_redirects_are_not_followed(tmp_path: Path, backend: Backend) -> None:
    backend.answer = (307, b"")
    backend.extra = ("Location", f"{backend.url}/elsewhere")
    finding = check.check_backend(config(tmp_path, backend.url))
    assert finding.ok is False and "status 307" in finding.text and "not followed" in finding.hint
    assert [path for path, _ in backend.seen] == ["/blacklist"]


def test_backend_that_does_not_run(tmp_path: Path) -> None:
    finding = check.check_backend(config(tmp_path, f"http://127.0.0.1:{free_port()}"))
    assert finding.ok is False and "Connection refused" in finding.text
    assert "start the backend" in finding.hint


def test_backend_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        finding = check.check_backend(config(tmp_path, url, HTTPX_TIMEOUT="0.2"))
    assert finding.ok is False and "no answer in time" in finding.text


def test_backend_with_an_unknown_name(tmp_path: Path) -> None:
    finding = check.check_backend(config(tmp_path, "http://nowhere.invalid"))
    assert finding.ok is False and "correct the host" in finding.hint


def make_certificate(days: int) -> tuple[bytes, bytes]:
    """A self-signed certificate for 127.0.0.1 that ends in so many days, and its key; PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days, hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(pem), private


@pytest.fixture
def tls_files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = make_certificate(10)
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_backend_with_tls(tmp_path: Path, backend: Backend, tls_files: tuple[Path, Path]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*tls_files)
    backend.socket = server.wrap_socket(backend.socket, server_side=True)
    url = backend.url.replace("http://127.0.0.1", "https://localhost")
    finding = check.check_backend(config(tmp_path, url))
    assert finding.ok is False and "certificate is not trusted" in finding.text
    assert "FASTAPI_CA_BUNDLE" in finding.hint
    finding = check.check_backend(config(tmp_path, url, FASTAPI_CA_BUNDLE=str(tls_files[0])))
    assert finding.ok is True, finding


def test_backend_without_tls_asked_with_tls(tmp_path: Path, backend: Backend) -> None:
    finding = check.check_backend(config(tmp_path, backend.url.replace("http:", "https:")))
    assert finding.ok is False and "TLS failed" in finding.text and "http://" in finding.hint


def test_a_certificate_file_that_is_none(tmp_path: Path, backend: Backend) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    settings = config(tmp_path, backend.url, FASTAPI_CA_BUNDLE=str(tmp_path / "no.pem"))
    assert check.check_backend(settings).ok is False
    assert backend.seen == []


# ---- check: this machine


def test_certificate(tmp_path: Path) -> None:
    path = tmp_path / "mitmproxy-ca-cert.pem"
    finding = check.check_certificate(str(tmp_path))
    assert finding.ok is False and "does not exist" in finding.text and "run" in finding.hint
    path.write_bytes(make_certificate(30)[0])
    finding = check.check_certificate(str(tmp_path))
    assert finding.ok is True and "(30 days)" in finding.text
    path.write_bytes(make_certificate(-2)[0])
    finding = check.check_certificate(str(tmp_path))
    assert finding.ok is False and "expired on" in finding.text and "remove" in finding.hint
    path.write_text("no certificate")
    assert check.check_certificate(str(tmp_path)).ok is False
    path.unlink()
    path.mkdir()
    assert check.check_certificate(str(tmp_path)).ok is False


def test_directories(tmp_path: Path) -> None:
    finding = check.check_directory("spool", "ACTIVITY_SPOOL_DIR", str(tmp_path))
    assert finding.ok is True and finding.text == str(tmp_path)
    finding = check.check_directory("spool", "ACTIVITY_SPOOL_DIR", str(tmp_path / "a" / "b"))
    assert finding.ok is True and finding.text.endswith("made at the start")
    (tmp_path / "file").touch()
    finding = check.check_directory("spool", "ACTIVITY_SPOOL_DIR", str(tmp_path / "file" / "b"))
    assert finding.ok is False and "ACTIVITY_SPOOL_DIR" in finding.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "check left something"


def test_spool_in_memory_is_told(tmp_path: Path) -> None:
    finding = check.check_spool(config(tmp_path, "http://a", ACTIVITY_SPOOL_DIR=""))
    assert finding.ok is True and "memory only" in finding.text


def test_a_broken_mitmproxy_or_core_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitm_forwarder._core", None)
    monkeypatch.setitem(sys.modules, "mitm_forwarder.compat", None)
    assert check.check_libraries().ok is False
    assert [finding.ok for finding in check.check_mitmproxy()] == [False]


def test_lines_are_one_line_each() -> None:
    marks: dict[bool | None, str] = {True: "ok", False: "FAIL", None: "skip"}
    line = check.render(check.Finding("part", False, "a\nb", "do"), marks, "->")
    assert line == "FAIL part          a b -> do"


# ---- check: the command


def test_check_of_a_gateway_that_is_ready(tmp_path: Path, backend: Backend) -> None:
    (tmp_path / ".mitmproxy").mkdir()
    (tmp_path / ".mitmproxy/mitmproxy-ca-cert.pem").write_bytes(make_certificate(30)[0])
    env = {"SYSTEM_TOKEN": "canary", "FASTAPI_BASE_URL": backend.url}
    with Process([*COMMAND, "check"], cwd=tmp_path, env=env) as process:
        status = process.exit_status()
    lines = process.text().splitlines()
    assert status == 0, process.text()
    assert [line.split()[:2] for line in lines] == [
        ["ok", part]
        for part in (
            "configuration",
            "libraries",
            "mitmproxy",
            "backend",
            "state",
            "spool",
            "certificate",
        )
    ]
    assert process.text().isascii() and "canary" not in process.text()


def test_check_of_nothing(tmp_path: Path) -> None:
    with Process([*COMMAND, "check", "--confdir", "empty"], cwd=tmp_path) as process:
        assert process.exit_status() == 1
    text = process.text()
    assert "FAIL configuration SYSTEM_TOKEN: not set" in text
    assert "skip backend" in text and "skip spool" in text
    assert "FAIL certificate   empty/mitmproxy-ca-cert.pem does not exist -> " in text
