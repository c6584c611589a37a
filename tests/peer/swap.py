"""A pytest plugin: mitmproxy's own layer tests, run with our classes in the place of mitmproxy's.

Requests in those tests have no plan of ours, so our layers must do with them what mitmproxy does.
"""

from __future__ import annotations

from typing import Any

from mitmproxy.proxy import layers as stock
from mitmproxy.proxy.layers import http

from mitm_forwarder import layers
from mitm_forwarder import streams

streams.UNROUTED = "stock"


class PeerLayer(layers.ForwarderLayer):
    """Ours from birth: the tests construct layers themselves."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.adopted()


http.HttpLayer = PeerLayer  # type: ignore[misc]
stock.HttpLayer = PeerLayer  # type: ignore[misc]
