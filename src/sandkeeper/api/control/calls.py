"""What E2B's SDKs ask a control plane, answered from a source of sandboxes."""

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.control.source import PAUSED, Sandbox, SandboxOrder, SandboxSource, Wanted
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import decoded, read_body
from sandkeeper.api.edge.respond import plain_json, status_of, utf8
from sandkeeper.api.edge.rights import USERS, standing_of
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import segment
from sandkeeper.errors import BadInput, SandkeeperError
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.log.access import Access
from sandkeeper.numerals import natural

__all__ = ["ControlCalls", "failed"]

ENVD_VERSION = "0.6.13"
"""The version of E2B's server whose features this one has; clients switch theirs on by it."""

BODY_BYTES = 1 << 20
SECONDS = 300
PAGE = 100
KEY_CHARACTERS = 255
LONGEST_SECONDS = 366 * 86400
CLIENT = "sandkeeper"

Seconds = Annotated[int, Meta(ge=0, le=LONGEST_SECONDS)]
_OfOne = Callable[[Request, SandboxSource, str], Awaitable[Response]]


class _NotServed(Exception):
    """E2B has this and this server has not."""


class CreateCall(msgspec.Struct):
    """A sandbox that somebody wants; what would have to be more than a machine is refused."""

    templateID: str = "base"
    timeout: Seconds = SECONDS
    metadata: dict[str, str] = {}
    envVars: dict[str, str] = {}
    autoPause: bool = False
    allow_internet_access: bool = True
    network: dict[str, Any] | None = None
    iam: dict[str, Any] | None = None
    mcp: dict[str, Any] | None = None
    volumeMounts: list[Any] = []


class TimeoutCall(msgspec.Struct):
    """For how many seconds a sandbox is wanted from now on."""

    timeout: Seconds = SECONDS


class ControlCalls:
    """The table of calls; each answers in E2B's words, whatever is wrong.

    `source_of` gives where the sandboxes of whoever asks come from; None for somebody unknown.
    """

    def __init__(
        self, source_of: Callable[[Request], SandboxSource | None], access: Access
    ) -> None:
        self._source_of = source_of
        self._access = access
        self._of_all: Mapping[str, Callable[[Request, SandboxSource], Awaitable[Response]]] = {
            "GET": self._list,
            "POST": self._create,
        }
        self._of_one: Mapping[tuple[str, str], _OfOne] = {
            ("GET", ""): self._get,
            ("DELETE", ""): self._end,
            ("POST", "connect"): self._connect,
            ("POST", "resume"): self._connect,
            ("POST", "timeout"): self._keep,
            ("POST", "refreshes"): self._keep_longer,
            ("POST", "pause"): self._pause,
            ("GET", "metrics"): self._metrics,
        }

    async def answer(self, request: Request) -> Response:
        """Answer a request of one of the routes."""
        try:
            source = self._source_of(request)
            if source is None:
                return failed(401, "missing or wrong token: send it as X-API-KEY")
            return await self._call(request, source)
        except _NotServed as error:
            return failed(501, f"{error} are not supported by this server")
        except SandkeeperError as error:
            return failed(status_of(error), str(error))

    async def _call(self, request: Request, source: SandboxSource) -> Response:
        at = 1 if segment(request.scope, 0) == "v2" else 0
        kind, name = segment(request.scope, at), segment(request.scope, at + 1)
        what = segment(request.scope, at + 2)
        if kind != "sandboxes":
            raise _NotServed(kind)
        if not name:
            return await self._of_all[request.method](request, source)
        if what in {"fork", "snapshots", "network"}:
            raise _NotServed({"fork": "forks", "network": "network rules"}.get(what, what))
        if (name, what) == ("metrics", "") and request.method == "GET":
            raise _NotServed("metrics of several sandboxes")
        return await self._of_one[request.method, what](request, source, name)

    async def _create(self, request: Request, source: SandboxSource) -> Response:
        wanted = await _read(request, CreateCall)
        if not wanted.allow_internet_access or wanted.network:
            raise _NotServed("network rules")
        for given, what in (
            (wanted.volumeMounts, "volumes"),
            (wanted.iam, "workload identities"),
            (wanted.mcp, "MCP gateways"),
        ):
            if given:
                raise _NotServed(what)
        self._access.audit("sandbox_create", caller(request), template=wanted.templateID)
        order = SandboxOrder(
            template=wanted.templateID,
            seconds=wanted.timeout,
            metadata=wanted.metadata,
            env=wanted.envVars,
            pause_at_end=wanted.autoPause,
            trusted=standing_of(request).may(USERS),
            key=_key(request),
        )
        return plain_json(_made(await source.create(order)), 201)

    async def _connect(self, request: Request, source: SandboxSource, name: str) -> Response:
        wanted = await _read(request, TimeoutCall)
        paused = (await source.get(name)).state == PAUSED
        await source.resume(name, wanted.timeout)
        found = await source.keep(name, wanted.timeout, shorten=False)
        resumed = paused or request.url.path.endswith("/resume")
        return plain_json(_made(found), 201 if resumed else 200)

    async def _list(self, request: Request, source: SandboxSource) -> Response:
        page = await source.page(_wanted(request))
        answer = plain_json([_listed(one) for one in page.found])
        if page.after:
            answer.headers["X-Next-Token"] = page.after
        return answer

    async def _get(self, _request: Request, source: SandboxSource, name: str) -> Response:
        return plain_json(_detail(await source.get(name)))

    async def _end(self, request: Request, source: SandboxSource, name: str) -> Response:
        self._access.audit("sandbox_kill", caller(request), identifier=name)
        await source.end(name)
        return Response(None, 204)

    async def _keep(self, request: Request, source: SandboxSource, name: str) -> Response:
        wanted = await _read(request, TimeoutCall)
        await source.keep(name, wanted.timeout)
        return Response(None, 204)

    async def _keep_longer(self, request: Request, source: SandboxSource, name: str) -> Response:
        wanted = await _read(request, TimeoutCall)
        await source.keep(name, wanted.timeout, shorten=False)
        return Response(None, 204)

    async def _pause(self, request: Request, source: SandboxSource, name: str) -> Response:
        self._access.audit("sandbox_pause", caller(request), identifier=name)
        await source.pause(name)
        return Response(None, 204)

    async def _metrics(self, _request: Request, source: SandboxSource, name: str) -> Response:
        use = await source.use(name)
        one = {
            "timestamp": _time(use.time),
            "timestampUnix": int(use.time),
            "cpuCount": use.cpu_count,
            "cpuUsedPct": use.cpu_percent,
            "memUsed": use.memory_used,
            "memTotal": use.memory_total,
            "memCache": use.memory_cache,
            "diskUsed": use.disk_used,
            "diskTotal": use.disk_total,
        }
        return plain_json([one])


def _made(found: Sandbox) -> dict[str, Any]:
    made: dict[str, Any] = {
        "templateID": found.template,
        "sandboxID": found.id,
        "clientID": CLIENT,
        "envdVersion": ENVD_VERSION,
    }
    if found.domain:
        made["domain"] = found.domain
    if not found.token:
        return made
    # Calls about code contexts bring the second alone.
    tokens = dict.fromkeys(("envdAccessToken", "trafficAccessToken"), found.token)
    return made | tokens


def _listed(found: Sandbox) -> dict[str, Any]:
    return {
        "templateID": found.template,
        "sandboxID": found.id,
        "clientID": CLIENT,
        "envdVersion": ENVD_VERSION,
        "startedAt": _time(found.started_at),
        "endAt": _time(found.ends_at),
        "cpuCount": found.cpu_count,
        "memoryMB": found.memory >> 20,
        "diskSizeMB": found.disk >> 20,
        "metadata": dict(found.metadata),
        "state": found.state,
    }


def _detail(found: Sandbox) -> dict[str, Any]:
    return {**_made(found), **_listed(found)}


def _wanted(request: Request) -> Wanted:
    """Read which sandboxes are asked for; names and values of metadata come escaped twice."""
    query = query_of(request)
    limit = natural(query.get("limit", str(PAGE)))
    if not limit:
        raise BadInput("limit is no whole number from 1 on")
    if (order := query.get("order", "desc")) not in {"asc", "desc"}:
        raise BadInput("order is neither asc nor desc")
    return Wanted(
        states=frozenset(word for word in query.get("state", "").split(",") if word),
        metadata={unquote(k): unquote(v) for k, v in parse_qsl(query.get("metadata", ""))},
        template=query.get("template", ""),
        started_after=_seconds(query.get("startedAfter", "")),
        oldest_first=order == "asc",
        limit=min(limit, PAGE),
        after=query.get("nextToken", ""),
    )


def _seconds(text: str) -> float:
    """Read a time; none given is the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except (ValueError, OverflowError):
        raise BadInput("startedAfter is no time") from None


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if len(key) > KEY_CHARACTERS:
        raise BadInput(f"Idempotency-Key has more than {KEY_CHARACTERS} characters")
    return key


async def _read(request: Request, model: type[Any]) -> Any:
    body = await read_body(request, BODY_BYTES)
    return await decoded(body, model) if body.strip() else model()


def _time(seconds: float) -> str:
    return rfc3339(int(seconds * 1e6) * 1000, local=False)


def failed(status: int, message: str) -> Response:
    """Answer with an error in E2B's shape."""
    body = json.dumps({"code": status, "message": utf8(message)})
    return Response(body, status, media_type="application/json")
