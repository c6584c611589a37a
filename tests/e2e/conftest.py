"""A whole installation for each test process, and gateways with other settings beside it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import World
from tests.support import gateway as gateways
from tests.support.backend import Backend
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.proxies import ExampleProxy

LOG_SHOWN_CHARS = 20_000

REFRESH = {"BLACKLIST_REFRESH_SECONDS": "0.3"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what its gateways said."""
    report = yield
    if report.failed:
        for one in list(gateways.alive):
            report.sections.append((f"log of {one.directory.name}", one.log()[-LOG_SHOWN_CHARS:]))
    return report


@pytest.fixture(scope="session")
def confdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mitmproxy's directory with a CA, for all gateways."""
    return gateways.make_confdir(tmp_path_factory.mktemp("confdir"))


@pytest.fixture(scope="session")
def parts() -> Iterator[tuple[Backend, Origin, ExampleProxy]]:
    """What every gateway needs around it."""
    with Backend() as backend, Origin() as origin, ExampleProxy() as proxy:
        yield backend, origin, proxy


Start = Callable[..., Gateway]


@pytest.fixture(scope="session")
def session_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the session's gateway."""
    return tmp_path_factory.mktemp("session") / "gateway"


@pytest.fixture(scope="session")
def session_world(
    parts: tuple[Backend, Origin, ExampleProxy], confdir: Path, session_directory: Path
) -> Iterator[World]:
    """The installation that most tests share; what holds for all is looked at in the end."""
    backend, origin, proxy = parts
    trust = f"ssl_verify_upstream_trusted_ca={origin.ca_file}"
    with Gateway(
        session_directory,
        backend.url,
        backend.system_token,
        confdir=confdir,
        options=["--set", trust],
        env=REFRESH,
    ) as gateway:
        world = World.make(backend, origin, proxy, gateway)
        yield world
        backend.clear_faults()
        world.one_record_each()
        world.no_strangers()
        assert "Traceback" not in gateway.log()
        assert "mitmproxy has crashed" not in gateway.log()


@pytest.fixture
def world(session_world: World) -> Iterator[World]:
    """The shared installation, with the backend's faults gone before and after."""
    session_world.backend.clear_faults()
    seen = len(session_world.origin.peers)
    yield session_world
    session_world.backend.clear_faults()
    assert session_world.origin.strangers(session_world.openers, seen) == []


@pytest.fixture
def start(
    parts: tuple[Backend, Origin, ExampleProxy], confdir: Path, tmp_path: Path
) -> Iterator[Start]:
    """Starts a gateway of the test's own: start(env={...}, options=[...]) -> Gateway, ready."""
    backend, origin, _ = parts
    with ExitStack() as stack:
        count = 0

        def start(**settings: Any) -> Gateway:
            nonlocal count
            count += 1
            trust = f"ssl_verify_upstream_trusted_ca={origin.ca_file}"
            options = ["--set", trust, *settings.pop("options", [])]
            env = REFRESH | settings.pop("env", {})
            gateway = Gateway(
                settings.pop("directory", tmp_path / f"gateway-{count}"),
                settings.pop("backend_url", backend.url),
                settings.pop("system_token", backend.system_token),
                confdir=confdir,
                options=options,
                env=env,
                **settings,
            )
            return stack.enter_context(gateway)

        yield start


@pytest.fixture
def around(world: World) -> Callable[[Gateway], World]:
    """The shared installation seen through another gateway."""

    def around(gateway: Gateway) -> World:
        return replace(world, gateway=gateway)

    return around
