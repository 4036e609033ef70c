"""The API server, as far as a fleet needs it: lists, watches, creations, patches, ends.

Authentication, certificates and connections are kubernetes_asyncio's. Its models are passed by:
what comes is decoded straight into the few fields that are kept (`fleet.objects`), which is a
tenth of the time and of the memory.
"""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from sandkeeper.errors import Conflict, Forbidden, Internal, NotFound, Unavailable

__all__ = [
    "CLAIMS",
    "POOLS",
    "SANDBOXES",
    "SECRETS",
    "TEMPLATES",
    "Cluster",
    "Expired",
    "ObjectKind",
]

T = TypeVar("T")

AGENTS, EXTENSIONS = "/apis/agents.x-k8s.io/v1beta1", "/apis/extensions.agents.x-k8s.io/v1beta1"
SECONDS = 20.0
CONNECT_SECONDS = 5.0
CONNECTIONS = 200
LINE_BYTES = 8 << 20
MERGE_PATCH = "application/merge-patch+json"


class Expired(Exception):
    """The API server does not remember what a watch or a page is to go on from (410)."""


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of objects: where its API is and what it is called there."""

    api: str
    plural: str
    kind: str


CLAIMS = ObjectKind(EXTENSIONS, "sandboxclaims", "SandboxClaim")
POOLS = ObjectKind(EXTENSIONS, "sandboxwarmpools", "SandboxWarmPool")
TEMPLATES = ObjectKind(EXTENSIONS, "sandboxtemplates", "SandboxTemplate")
SANDBOXES = ObjectKind(AGENTS, "sandboxes", "Sandbox")
SECRETS = ObjectKind("/api/v1", "secrets", "Secret")


class _Status(msgspec.Struct):
    """What the API server says of a failure."""

    message: str = ""
    reason: str = ""


class Cluster:
    """The API server behind a kubeconfig or a service account; event loop's thread only.

    Every call raises Unavailable when it cannot be reached or says so, and Internal, with its own
    words, for what nobody expected.
    """

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig
        self._opened: ApiClient | None = None

    async def open(self) -> None:
        """Read how to get there; nothing is sent. Raises ValueError or OSError for what is none."""
        settings = Configuration()
        settings.connection_pool_maxsize = CONNECTIONS
        inside = "KUBERNETES_SERVICE_HOST" in os.environ  # noqa: TID251 - the client reads it, too
        try:
            if inside and not self._kubeconfig:
                config.load_incluster_config(client_configuration=settings)
            else:
                await config.load_kube_config(
                    config_file=self._kubeconfig or None, client_configuration=settings
                )
        except config.ConfigException as error:
            raise ValueError(str(error)) from error
        self._opened = ApiClient(configuration=settings)

    @property
    def _client(self) -> ApiClient:
        assert self._opened is not None
        return self._opened

    async def close(self) -> None:
        """Let go of the connections."""
        if self._opened is not None:
            await self._opened.close()

    async def page(
        self, kind: ObjectKind, namespace: str, model: type[T], query: Mapping[str, str]
    ) -> T:
        """Return one page of a list; raises Expired when its token is too old."""
        return await self._decoded("GET", _path(kind, namespace), model, query=query)

    async def get(self, kind: ObjectKind, namespace: str, name: str, model: type[T]) -> T:
        """Return one object; raises NotFound."""
        return await self._decoded("GET", _path(kind, namespace, name), model)

    async def create(
        self, kind: ObjectKind, namespace: str, body: Mapping[str, Any], model: type[T]
    ) -> T:
        """Make an object; raises Conflict when there is one of that name."""
        whole = {"apiVersion": kind.api.removeprefix("/apis/"), "kind": kind.kind, **body}
        return await self._decoded("POST", _path(kind, namespace), model, body=whole)

    async def patch(
        self, kind: ObjectKind, namespace: str, name: str, body: Mapping[str, Any], model: type[T]
    ) -> T:
        """Merge fields into an object (RFC 7386); raises NotFound."""
        path = _path(kind, namespace, name)
        return await self._decoded("PATCH", path, model, body=body, content=MERGE_PATCH)

    async def delete(self, kind: ObjectKind, namespace: str, name: str) -> None:
        """Have an object end, and all that it owns; raises NotFound."""
        body = {"propagationPolicy": "Background"}
        async with self._answer("DELETE", _path(kind, namespace, name), body=body) as answer:
            await answer.read()

    @asynccontextmanager
    async def watch(
        self, kind: ObjectKind, namespace: str, query: Mapping[str, str], silence: float
    ) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        """Give the lines of a watch, which ends after `silence` seconds without any.

        Raises Expired when it is to go on from what is too old.
        """
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=silence)
        path = _path(kind, namespace)
        async with self._answer("GET", path, query=query, timeout=timeout) as answer:
            yield _lines(answer)

    async def _decoded(
        self,
        method: str,
        path: str,
        model: type[T],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> T:
        async with self._answer(method, path, query=query, body=body, content=content) as answer:
            data = await answer.read()
        try:
            return msgspec.json.decode(data, type=model)
        except msgspec.DecodeError as error:
            raise Internal(f"the API server's answer makes no sense: {error}") from error

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        try:
            answer: aiohttp.ClientResponse = await self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout
                or aiohttp.ClientTimeout(total=SECONDS, sock_connect=CONNECT_SECONDS),
            )
            async with answer:
                if answer.status >= 300:
                    raise _failure(answer.status, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the cluster does not answer: {error or 'too late'}") from error


def _path(kind: ObjectKind, namespace: str, name: str = "") -> str:
    base = f"{kind.api}/namespaces/{namespace}/{kind.plural}"
    return f"{base}/{name}" if name else base


def _failure(status: int, data: bytes) -> Exception:
    try:
        told = msgspec.json.decode(data, type=_Status)
    except msgspec.DecodeError:
        told = _Status(data[:200].decode("utf-8", "replace"))
    why = told.message or told.reason or f"status {status}"
    if status == 410:
        return Expired(why)
    if status == 429 or status >= 500:
        return Unavailable(f"the cluster says: {why}")
    kinds: dict[int, type[Exception]] = {403: Forbidden, 404: NotFound, 409: Conflict}
    return kinds.get(status, Internal)(f"the cluster says: {why}")


async def _lines(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Yield whole lines, of any length up to LINE_BYTES; several arrive as one block, often."""
    rest = b""
    async for block in answer.content.iter_any():
        *whole, rest = (rest + block).split(b"\n")
        if len(rest) > LINE_BYTES:
            raise Internal("an event of the API server is too long")
        for line in whole:
            if line:
                yield line
