"""Hook dispatch that knows who listens: an AddonManager with a table for each hook.

Replaces `AddonManager.trigger_event`, `trigger` and `handle_lifecycle`, half of mitmproxy's cost of
a request: for each hook they walk all addons (34 in mitmdump) through two generators and a context
manager to find the few that handle it. Here each of mitmproxy's own addons is asked once and
remembered; every other addon, and every addon that holds addons (the script loader), is asked each
time, as before, since those change at run time.

Nobody can tell the difference: the order, the nesting, AddonHalt, OptionsError, the log of an
error, and what happens to an addon that is added or removed by a handler are the same
(tests/test_dispatch.py compares both on random chains). Tables are compared with the chain before
each use, and forgotten whenever an addon is loaded, configured, started or ended, so a script may
patch one of mitmproxy's addons from there. What is not seen is a patch of a method of mitmproxy's
own addons made at any other time.

Written against AddonManager as it is in mitmproxy 10.1.5 to 12.2.3. Loop thread only.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import types
from collections.abc import Iterator
from typing import Any

from mitmproxy import addonmanager
from mitmproxy import ctx
from mitmproxy import exceptions
from mitmproxy import flow
from mitmproxy import hooks

from .turbo.cut import Cut
from .turbo.cut import Undo

LIFECYCLE = frozenset(("load", "configure", "running", "done"))
MISSING = object()


@dataclasses.dataclass(slots=True)
class Table:
    """Who handles one hook. A handler of None: ask this addon, and those in it, each time."""

    chain: list[Any]
    """The manager's chain when the table was made."""
    steps: list[tuple[Any, Any]]


class Dispatcher(addonmanager.AddonManager):
    """Takes the place of `ctx.master.addons` by `__class__`: everybody holds that object."""

    async def trigger_event(self, event: hooks.Hook) -> None:
        if event.name in LIFECYCLE:
            await super().trigger_event(event)
            _forget(self)
        else:
            await _run(self, event.name, arguments(event))

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        args = arguments(event)
        message = args[0]
        await _run(self, event.name, args)
        if isinstance(message, flow.Flow):
            await _run(self, "update", ([message],))

    def trigger(self, event: hooks.Hook) -> None:
        # What is no hook at all, mitmproxy refuses for each addon, in the log.
        if not isinstance(event, hooks.Hook) or event.name in LIFECYCLE:
            super().trigger(event)
            return
        args = arguments(event)
        for step in _steps(self, event.name):
            try:
                for addon, handler in _handlers(step, event.name):
                    _check_sync(addon, handler, event.name)
                    handler(*args)
            except exceptions.AddonHalt:
                return
            except exceptions.OptionsError:
                raise
            except Exception as error:
                _report(error)

    def invoke_addon_sync(self, addon: Any, event: hooks.Hook) -> None:
        try:
            # Not by super(): logged tracebacks are cut at the first frame of this name.
            for found, handler in self._iter_hooks(addon, event):
                _check_sync(found, handler, event.name)
                handler(*event.args())
        finally:
            if isinstance(event, hooks.Hook) and event.name in LIFECYCLE:
                _forget(self)


# Functions, not methods: one that is suspended in a handler goes on after an uninstall.


async def _run(manager: addonmanager.AddonManager, name: str, args: tuple[Any, ...]) -> None:
    for step in _steps(manager, name):
        addon, handler = step
        try:
            if handler is not None:
                result = handler(*args)
                if result is not None and inspect.isawaitable(result):
                    await result
                continue
            for _, handler in _ask(addon, name):
                result = handler(*args)
                if result is not None and inspect.isawaitable(result):
                    await result
        except exceptions.AddonHalt:
            return
        except exceptions.OptionsError:
            raise
        except Exception as error:
            _report(error)


def _steps(manager: addonmanager.AddonManager, name: str) -> Iterator[tuple[Any, Any]]:
    chain = manager.chain
    tables: dict[str, Table] = manager.__dict__.get("_tables", {})
    table = tables.get(name)
    # Equal lists of identical objects compare by identity: a fraction of a microsecond.
    if table is None or table.chain != chain:
        table = tables[name] = Table(chain.copy(), _build(chain, name))
    return itertools.chain(table.steps, _appended(chain, len(table.chain)))


def is_handled(manager: addonmanager.AddonManager, name: str) -> bool:
    """Does any addon handle this hook now?"""
    return any(
        handler is not None or next(_ask(addon, name), None) is not None
        for addon, handler in _steps(manager, name)
    )


def _build(chain: list[Any], name: str) -> list[tuple[Any, Any]]:
    steps: list[tuple[Any, Any]] = []
    for addon in chain:
        handler: Any = getattr(addon, name, MISSING) if _is_fixed(addon, name) else None
        if handler is MISSING:
            continue
        steps.append((addon, handler if isinstance(handler, types.MethodType) else None))
    return steps


def _is_fixed(addon: Any, name: str) -> bool:
    """One of mitmproxy's own, without addons in it, whose attributes are those of its class."""
    cls = type(addon)
    return (
        cls.__module__.startswith("mitmproxy.")
        and not hasattr(addon, "addons")
        and not hasattr(cls, "__getattr__")
        and name not in getattr(addon, "__dict__", ())
    )


def _appended(chain: list[Any], position: int) -> Iterator[tuple[Any, Any]]:
    """Who walks the chain itself also meets what a handler has added to it meanwhile."""
    while position < len(chain):
        yield chain[position], None
        position += 1


def _handlers(step: tuple[Any, Any], name: str) -> Iterator[tuple[Any, Any]]:
    addon, handler = step
    return _ask(addon, name) if handler is None else iter((step,))


def _check_sync(addon: Any, handler: Any, name: str) -> None:
    if inspect.iscoroutinefunction(handler):
        raise exceptions.AddonManagerError(
            f"Async handler {name} ({addon}) cannot be called from sync context"
        )


def _ask(root: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """The handlers of an addon and of the addons in it, each looked up when its turn has come."""
    pending = [iter((root,))]
    while pending:
        for addon in pending[-1]:
            handler = getattr(addon, name, None)
            if handler:
                if callable(handler):
                    yield addon, handler
                elif not isinstance(handler, types.ModuleType):
                    raise exceptions.AddonManagerError(
                        f"Addon handler {name} ({addon}) not callable"
                    )
            children: Any = getattr(addon, "addons", MISSING)
            if children is not MISSING:
                pending.append(iter(children))
                break
        else:
            pending.pop()


def _report(error: Exception) -> None:
    """As mitmproxy's safecall does, from the handler's own frame on."""
    traceback = addonmanager.cut_traceback(error.__traceback__, "_run")
    traceback = addonmanager.cut_traceback(traceback, "trigger")
    addonmanager.logger.error(f"Addon error: {error}", exc_info=(type(error), error, traceback))


def _forget(manager: addonmanager.AddonManager) -> None:
    manager.__dict__.get("_tables", {}).clear()


FIELDS: dict[type[hooks.Hook], tuple[str, ...]] = {}


def arguments(event: hooks.Hook) -> tuple[Any, ...]:
    """`event.args()`, without asking the dataclass for its fields each time."""
    cls = type(event)
    names = FIELDS.get(cls)
    if names is None:
        if cls.args is not hooks.Hook.args:
            return tuple(event.args())
        names = FIELDS[cls] = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    if len(names) == 1:
        return (getattr(event, names[0]),)
    return tuple([getattr(event, name) for name in names])


# ---- the cut


def _install() -> Undo:
    manager = ctx.master.addons
    manager.__dict__["_tables"] = {}
    manager.__class__ = Dispatcher

    def undo() -> None:
        manager.__class__ = addonmanager.AddonManager
        del manager.__dict__["_tables"]

    return undo


def _problem() -> str | None:
    if type(ctx.master.addons) is not addonmanager.AddonManager:
        return "another addon manager is in place"
    return None


CUT = Cut(
    name="dispatch",
    safe=True,
    replaces=("mitmproxy.addonmanager", "mitmproxy.hooks:Hook"),
    sources={"df9cb4849eb14c66": "10.1.5 to 12.2.3", "d1344e9413127c18": "12.3.1"},
    install=_install,
    problem=_problem,
)
