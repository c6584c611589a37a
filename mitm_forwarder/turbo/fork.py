"""A fork of a context without a Server that is thrown away at once.

Replaces `context.Context.fork`, whose constructor makes a Server (an identifier, eighteen fields,
their checks) that the next line replaces.

Nobody can tell the difference: the fork has the same four attributes with the same values. A
subclass of Context forks as before.
"""

from __future__ import annotations

from mitmproxy.proxy import context

from .cut import Cut
from .cut import Undo


def _install() -> Undo:
    stock = context.Context.fork

    def fork(self: context.Context) -> context.Context:
        if type(self) is not context.Context:
            return stock(self)
        forked = context.Context.__new__(context.Context)
        forked.client = self.client
        forked.options = self.options
        forked.server = self.server
        forked.layers = self.layers.copy()
        return forked

    context.Context.fork = fork  # type: ignore[method-assign]

    def undo() -> None:
        context.Context.fork = stock  # type: ignore[method-assign]

    return undo


CUT = Cut(
    name="fork",
    safe=True,
    replaces=("mitmproxy.proxy.context:Context",),
    sources={"dd52bbec90eacace": "10.1.5 to 12.3.1"},
    install=_install,
)
