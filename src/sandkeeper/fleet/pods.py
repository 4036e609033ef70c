"""What a replica asks the server in a sandbox itself: to take variables, and how much is used."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import msgspec

from sandkeeper.api.port.meant import MEANT, MISDIRECTED
from sandkeeper.errors import NotFound, Unavailable
from sandkeeper.fleet.objects import ClaimRecord
from sandkeeper.observability.machine_use import Use

__all__ = ["Pods"]

SECONDS = 10.0
ANSWER_BYTES = 64 << 10


class _Use(msgspec.Struct):
    """`GET /metrics` as E2B has it."""

    ts: int = 0
    cpu_count: int = 0
    cpu_used_pct: float = 0.0
    mem_total: int = 0
    mem_used: int = 0
    mem_cache: int = 0
    disk_used: int = 0
    disk_total: int = 0


@dataclass(frozen=True, slots=True)
class _Reply:
    """A whole answer."""

    status: int
    content: bytes


class Pods:
    """The servers in the sandboxes, on one port, with one token; event loop's thread only.

    What answers there is not trusted: a program may have taken the server's place. Each request
    says whom it means: an address may be another sandbox's by now.
    """

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = {"X-Access-Token": token} if token else {}
        self._client = httpx.AsyncClient(
            timeout=SECONDS, headers=self._headers, trust_env=False, follow_redirects=False
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def set_env(self, record: ClaimRecord, env: Mapping[str, str]) -> None:
        """Have programs of a sandbox start with variables; raises Unavailable."""
        reply = await self._ask(record, "POST", "/init", json={"envVars": dict(env)})
        if reply.status >= 300:
            why = reply.content[:200].decode("utf-8", "replace")
            raise Unavailable(f"the sandbox does not take variables: {reply.status} {why}")

    async def use(self, record: ClaimRecord) -> Use:
        """Return how much a sandbox uses; raises Unavailable."""
        reply = await self._ask(record, "GET", "/metrics", accept="application/json")
        try:
            if reply.status != 200:
                raise Unavailable(f"the sandbox tells no figures: {reply.status}")
            told = msgspec.json.decode(reply.content, type=_Use)
        except msgspec.DecodeError as error:
            raise Unavailable(f"the sandbox tells no figures: {reply.status}") from error
        return Use(
            time=float(told.ts),
            cpu_count=told.cpu_count,
            cpu_percent=told.cpu_used_pct,
            memory_total=told.mem_total,
            memory_used=told.mem_used,
            memory_cache=told.mem_cache,
            disk_total=told.disk_total,
            disk_used=told.disk_used,
        )

    async def _ask(
        self,
        record: ClaimRecord,
        method: str,
        path: str,
        *,
        json: object = None,
        accept: str = "*/*",
    ) -> _Reply:
        if not record.address:
            raise NotFound(f"sandbox {record.id} has no Pod at present")
        url = f"http://{record.host}:{self._port}{path}"
        headers = {"Accept": accept, "Accept-Encoding": "identity", MEANT.decode(): record.backing}
        asked = self._client.build_request(method, url, json=json, headers=headers)
        try:
            async with asyncio.timeout(SECONDS):
                reply = await self._client.send(asked, stream=True)
                try:
                    if reply.status_code == MISDIRECTED:
                        raise Unavailable("the sandbox's Pod has another address by now: try again")
                    return _Reply(reply.status_code, await _read(reply))
                finally:
                    await reply.aclose()
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"the sandbox does not answer: {error or 'too late'}") from error


async def _read(reply: httpx.Response) -> bytes:
    content = bytearray()
    async for block in reply.aiter_raw():
        content += block
        if len(content) > ANSWER_BYTES:
            raise Unavailable("the sandbox says more than it was asked")
    return bytes(content)
