"""What one would write by hand: httpx for the backend, re for the rules, via for the upstream.

Does the work, and little of what ours does beside: no failover, no record that survives, no limits.
"""

import asyncio
import os
import re
import time

import httpx
from mitmproxy import connection
from mitmproxy import http

BACKEND = os.environ["FASTAPI_BASE_URL"]
SYSTEM = {"Authorization": f"Bearer {os.environ['SYSTEM_TOKEN']}"}


class Gateway:
    def __init__(self) -> None:
        self.rules: list[re.Pattern[str]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def running(self) -> None:
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        self.client = httpx.AsyncClient(timeout=30, limits=limits, trust_env=False)
        answer = await self.client.get(f"{BACKEND}/blacklist", headers=SYSTEM)
        self.rules = [re.compile(rule["pattern"]) for rule in answer.json()]

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        token = flow.request.headers.pop("authorization", None)
        url = flow.request.pretty_url
        if token is None:
            flow.response = http.Response.make(401)
        elif any(rule.search(url) for rule in self.rules):
            flow.response = http.Response.make(403)
        else:
            answer = await self.client.get(
                f"{BACKEND}/proxy", params={"target_url": url}, headers={"Authorization": token}
            )
            if answer.status_code != 200:
                flow.response = http.Response.make(502)
                return
            proxy = answer.json()
            flow.server_conn = connection.Server(
                address=flow.server_conn.address, via=("http", (proxy["ip"], proxy["port"]))
            )
            flow.metadata["proxy_id"] = proxy["id"]

    def response(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        record = {
            "user_id": 7,
            "endpoint": flow.request.pretty_url,
            "method": flow.request.method,
            "status_code": flow.response.status_code,
            "target_url": flow.request.pretty_url,
            "proxy_id": flow.metadata.get("proxy_id"),
            "timestamp": time.time(),
        }
        task = asyncio.get_running_loop().create_task(self.post(record))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def post(self, record: dict[str, object]) -> None:
        try:
            await self.client.post(f"{BACKEND}/activity", json=record, headers=SYSTEM)
        except httpx.HTTPError:
            pass


addons = [Gateway()]
