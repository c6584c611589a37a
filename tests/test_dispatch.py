"""Our hook dispatch against mitmproxy's: the same chains of addons and hooks, equal traces."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from mitmproxy import addonmanager
from mitmproxy import exceptions
from mitmproxy import hooks
from mitmproxy import log
from mitmproxy import optmanager
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.proxy.layers.http import HttpResponseHook
from mitmproxy.test import tflow

from mitm_forwarder import dispatch
from mitm_forwarder import turbo

pytestmark = pytest.mark.smoke

HOOKS = ("request", "response", "update", "add_log", "running", "configure")
ACTIONS = (
    "note",
    "raise",
    "halt",
    "options_error",
    "async",
    "async_raise",
    "async_halt",
    "future",
    "add",
    "remove",
    "clear",
    "change",
    "grow",
    "shrink",
    "not_callable",
    "module",
    "none",
)


class World:
    """One addon manager, its addons and what they said."""

    def __init__(self, cls: type[addonmanager.AddonManager], plan: list[Any]) -> None:
        self.trace: list[str] = []
        self.made = 0
        master = types.SimpleNamespace(
            options=optmanager.OptManager(),
            commands=types.SimpleNamespace(collect_commands=lambda addon: None),
        )
        self.manager = addonmanager.AddonManager(master)
        if cls is dispatch.Dispatcher:
            self.manager.__dict__["_tables"] = {}
            self.manager.__class__ = cls
        for node in plan:
            self.manager.add(self.make(node))

    def make(self, node: Any) -> Any:
        kind, handlers, children = node
        self.made += 1
        module = "mitmproxy.addons.made_up" if kind == "own" else __name__
        base = type(f"Addon{self.made}", (), {"__module__": module})
        addon: Any = base()
        addon.name = f"a{self.made}"
        for hook, action in handlers.items():
            handler = self.handler(addon, hook, action)
            if kind == "instance":
                setattr(addon, hook, handler)
            else:
                setattr(base, hook, handler)
        if children is not None:
            addon.addons = [self.make(child) for child in children]
        return addon

    def handler(self, addon: Any, hook: str, action: str) -> Any:
        if action == "not_callable":
            return "a text"
        if action == "module":
            return sys
        if action == "none":
            return None

        def say(args: tuple[Any, ...]) -> None:
            # A function in a class gets its addon first, one in an instance does not.
            args = tuple(x for x in args if x is not addon)
            shown = [type(x).__name__ for x in args]
            self.trace.append(f"{addon.name}.{hook}({', '.join(shown)})")
            if len(self.trace) > 2000:
                raise AssertionError("the trace does not end")

        async def asynchronous(*args: Any) -> None:
            say(args)
            await asyncio.sleep(0)
            self.act(addon, hook, action.removeprefix("async_"))

        def future(*args: Any) -> Any:
            say(args)
            return asyncio.ensure_future(asyncio.sleep(0))

        def plain(*args: Any) -> None:
            say(args)
            self.act(addon, hook, action)

        if action.startswith("async"):
            return asynchronous
        return future if action == "future" and hook != "add_log" else plain

    def act(self, addon: Any, hook: str, action: str) -> None:
        manager = self.manager
        if action == "raise":
            raise ValueError(f"{addon.name} raises")
        if action == "halt":
            raise exceptions.AddonHalt
        if action == "options_error":
            raise exceptions.OptionsError(f"{addon.name} dislikes an option")
        if action == "add" and self.made < 30:
            manager.add(self.make(("foreign", {hook: "note", "update": "note"}, None)))
        elif action == "remove" and manager.chain:
            manager.remove(manager.chain[-1])
        elif action == "clear":
            manager.clear()
        elif action == "change" and type(addon).__module__ == __name__:
            # What a script may do, and none of mitmproxy's own addons does.
            addon.response = lambda *_: self.trace.append(f"{addon.name} changed")
        elif action == "grow" and self.made < 30:
            if hasattr(addon, "addons"):
                addon.addons.append(self.make(("foreign", {hook: "note"}, None)))
        elif action == "shrink" and getattr(addon, "addons", None):
            addon.addons.pop()

    async def run(self, events: list[str]) -> None:
        for name in events:
            self.trace.append(f"== {name}")
            try:
                if name == "request":
                    await self.manager.handle_lifecycle(HttpRequestHook(tflow.tflow()))
                elif name == "response":
                    await self.manager.trigger_event(HttpResponseHook(tflow.tflow()))
                elif name == "update":
                    await self.manager.handle_lifecycle(HttpResponseHook(tflow.tflow()))
                elif name == "add_log":
                    self.manager.trigger(log.AddLogHook(log.LogEntry("x", "info")))
                elif name == "running":
                    await self.manager.trigger_event(hooks.RunningHook())
                else:
                    self.manager.trigger(hooks.ConfigureHook(set()))
            except Exception as error:
                text = re.sub("0x[0-9a-f]+", "0x", str(error))
                self.trace.append(f"{type(error).__name__}: {text}")
        chain = [addon.name for addon in self.manager.chain]
        self.trace.append(f"{chain} {sorted(self.manager.lookup)}")


@contextmanager
def recorded(trace: list[str]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            at = record.exc_info[2] if record.exc_info else None
            frames = []
            while at is not None:
                frames.append(at.tb_frame.f_code)
                at = at.tb_next
            # Both show the handler's frames to their end; of the machinery they show their own.
            names = [code.co_name for code in frames if code.co_filename == __file__]
            text = re.sub("0x[0-9a-f]+", "0x", record.getMessage())
            trace.append(f"{record.name} {record.levelname} {text} {names}")

    handler, logger = Handler(), addonmanager.logger
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def trace_of(cls: type[addonmanager.AddonManager], plan: list[Any], events: list[str]) -> list[str]:
    lines: list[str] = []

    async def main() -> None:
        world = World(cls, plan)
        world.trace = lines
        await world.run(events)

    with recorded(lines):
        asyncio.run(main())
    return lines


HANDLERS = st.dictionaries(st.sampled_from(HOOKS), st.sampled_from(ACTIONS), max_size=5)
LEAF = st.tuples(st.sampled_from(("own", "own", "foreign", "instance")), HANDLERS, st.none())
NODE = st.recursive(
    LEAF,
    lambda node: st.tuples(st.just("foreign"), HANDLERS, st.lists(node, max_size=3)),
    max_leaves=5,
)


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(
    st.lists(NODE, max_size=6), st.lists(st.sampled_from(HOOKS), min_size=1, max_size=6)
)
def test_same_as_stock(plan: list[Any], events: list[str]) -> None:
    stock = trace_of(addonmanager.AddonManager, plan, events)
    assert trace_of(dispatch.Dispatcher, plan, events) == stock


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", ["own", "foreign", "instance"])
def test_each_action(kind: str, action: str) -> None:
    """The same as above for certain: each action by each kind of addon, with others around it."""
    other = ("own", dict.fromkeys(("request", "response", "update"), "note"), None)
    nest = ("foreign", {"request": "note"}, [other, ("foreign", {"request": "note"}, None)])
    node = (kind, {"request": action, "update": action}, None)
    plan = [other, node, nest, other]
    events = ["request", "response", "request", "update", "request"]
    stock = trace_of(addonmanager.AddonManager, plan, events)
    assert trace_of(dispatch.Dispatcher, plan, events) == stock


def test_own_addons_are_asked_once() -> None:
    """What it is for: those that do not handle a hook cost nothing."""
    world = World(dispatch.Dispatcher, [("own", {"response": "note"}, None)] * 3)
    asyncio.run(world.run(["response", "request"]))
    tables = world.manager.__dict__["_tables"]
    assert [addon.name for addon, _ in tables["response"].steps] == ["a1", "a2", "a3"]
    assert tables["request"].steps == []


def test_chain_changed_by_hand() -> None:
    """Who changes the list itself, as some addons do, is seen from the next hook."""

    async def main(cls: type[addonmanager.AddonManager]) -> list[str]:
        world = World(cls, [("own", {"response": "note"}, None)] * 2)
        await world.run(["response"])
        world.manager.chain.insert(0, world.make(("foreign", {"response": "note"}, None)))
        await world.run(["response"])
        world.manager.chain[:] = world.manager.chain[1:]
        await world.run(["response"])
        return world.trace

    assert asyncio.run(main(dispatch.Dispatcher)) == asyncio.run(main(addonmanager.AddonManager))


def test_patch_from_a_script_is_seen() -> None:
    """A script that patches one of mitmproxy's addons in its own `running` or `configure`."""
    world = World(dispatch.Dispatcher, [("own", {"response": "note"}, None)])
    asyncio.run(world.run(["response"]))
    own = world.manager.chain[0]
    type(own).response = lambda self, flow: world.trace.append("patched")
    asyncio.run(world.run(["configure", "response"]))
    assert "patched" in world.trace


def test_goes_on_after_uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that waits while the addon is removed ends as it would have."""

    async def main() -> list[str]:
        world = World(
            addonmanager.AddonManager,
            [("own", {"request": "async"}, None), ("foreign", {"request": "note"}, None)],
        )
        master = types.SimpleNamespace(addons=world.manager)
        monkeypatch.setattr(dispatch.ctx, "master", master, raising=False)
        assert turbo.install(["dispatch"]) == ["dispatch"]
        assert type(world.manager) is dispatch.Dispatcher
        task = asyncio.create_task(world.run(["request"]))
        await asyncio.sleep(0)
        turbo.uninstall(["dispatch"])
        assert type(world.manager) is addonmanager.AddonManager
        await task
        return world.trace

    assert asyncio.run(main())[1:3] == ["a1.request(HTTPFlow)", "a2.request(HTTPFlow)"]
    assert turbo.installed() == ()
