"""Downloading an upgrade: bounded, with retries, redirects only to where the rule permits."""

import asyncio
import hashlib
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sandkeeper import __version__
from sandkeeper.errors import Forbidden, Internal, NotFound, Unavailable
from sandkeeper.numerals import natural
from sandkeeper.upgrade.source import Allowed, without_secrets

if TYPE_CHECKING:
    import httpx

__all__ = ["WHEEL_BYTES", "Download", "Downloads", "FetchedText", "Writer"]

T = TypeVar("T")
WHEEL_BYTES = 256 << 20
TEXT_BYTES = 64 << 20
ATTEMPTS = 4
WAIT_MOST_SECONDS = 30.0
PAUSE_SECONDS = 0.1
HOPS = 5
INDEX_TYPES = "application/vnd.pypi.simple.v1+json, text/html;q=0.1, text/plain;q=0.1"


@dataclass(frozen=True, slots=True)
class FetchedText:
    """A page and where it came from after redirects."""

    url: str
    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was downloaded, its size in bytes and its SHA-256."""

    path: Path
    size: int
    sha256: str


class Writer:
    """Writes a new file of bounded size and computes its SHA-256 on the way."""

    def __init__(self, target: Path, progress: Callable[[int], None]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = open(os.open(target, flags, 0o600), "wb")  # noqa: SIM115 - `close` does
        self._digest = hashlib.sha256()
        self._progress = progress
        self._target = target
        self._size = 0

    def write(self, block: bytes) -> None:
        """Add a block; raises Internal when it gets too large, OSError when the disk is full."""
        self._size += len(block)
        if self._size > WHEEL_BYTES:
            raise Internal(f"it is larger than {WHEEL_BYTES} bytes")
        self._digest.update(block)
        self._file.write(block)
        self._progress(self._size)

    def close(self) -> Download:
        """Finish the file."""
        self._file.close()
        return Download(self._target, self._size, self._digest.hexdigest())


class _Again(Exception):
    """A fault that may be over at the next attempt, after so many seconds at least."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


class Downloads:
    """Fetches pages and wheels; `rule` bounds redirects, None where a checksum vouches already."""

    def __init__(self, client: "httpx.AsyncClient") -> None:
        self._client = client

    @classmethod
    async def open(cls) -> "Downloads":
        """Make a client; reading the certificates takes too long for the event loop."""
        return cls(await asyncio.to_thread(_client))

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def text(self, url: str, rule: Allowed) -> FetchedText:
        """Return a page; raises NotFound, Forbidden, Unavailable or Internal."""
        return await _retried(lambda: self._text(url, rule))

    async def wheel(
        self, url: str, rule: Allowed | None, target: Path, progress: Callable[[int], None]
    ) -> Download:
        """Download to `target`; raises as `text` does, and OSError."""
        return await _retried(lambda: self._wheel(url, rule, target, progress))

    async def _text(self, url: str, rule: Allowed) -> FetchedText:
        reply = await self._open(url, rule, INDEX_TYPES)
        data = bytearray()
        try:
            async for block in reply.aiter_bytes():
                data += block
                if len(data) > TEXT_BYTES:
                    raise Internal(f"{without_secrets(url)} is larger than {TEXT_BYTES} bytes")
        except _faults() as error:
            raise _Again(f"{without_secrets(url)}: {error!r}") from None
        finally:
            await reply.aclose()
        return FetchedText(str(reply.url), bytes(data), reply.headers.get("content-type", ""))

    async def _wheel(
        self, url: str, rule: Allowed | None, target: Path, progress: Callable[[int], None]
    ) -> Download:
        reply = await self._open(url, rule, "application/octet-stream")
        writer = Writer(target, progress)
        try:
            async for block in reply.aiter_raw(1 << 18):
                await asyncio.to_thread(writer.write, block)
        except _faults() as error:
            raise _Again(f"{without_secrets(url)}: {error!r}") from None
        finally:
            got = writer.close()
            await reply.aclose()
        length = reply.headers.get("content-length", "")
        if natural(length) not in {None, got.size}:
            raise _Again(f"{without_secrets(url)}: {got.size} of {length} bytes came")
        return got

    async def _open(self, url: str, rule: Allowed | None, accept: str) -> "httpx.Response":
        """Send the request and follow redirects, each of which the rule must permit."""
        request = self._client.build_request("GET", url, headers={"Accept": accept})
        for _ in range(HOPS):
            try:
                reply = await self._client.send(request, stream=True)
            except _faults() as error:
                raise _Again(f"{without_secrets(str(request.url))}: {error!r}") from None
            if reply.next_request is None:
                return await _accepted(reply)
            await reply.aclose()
            request = reply.next_request
            if rule is not None and not _below(rule, str(request.url)):
                where = without_secrets(str(request.url))
                raise Forbidden(f"it redirects to {where}, which the operator does not permit")
        raise Internal(f"{without_secrets(url)} redirects more than {HOPS} times")


def _below(rule: Allowed, url: str) -> bool:
    if rule.kind == "index":
        return url.startswith(rule.place) and "/../" not in url
    return rule.permits(url.split("?")[0].removesuffix(".sha256"))


async def _accepted(reply: "httpx.Response") -> "httpx.Response":
    """Return a 200; raises NotFound, _Again for what may be over later, Internal for the rest."""
    if reply.status_code == 200:
        return reply
    await reply.aclose()
    what = f"{without_secrets(str(reply.url))} answers {reply.status_code}"
    if reply.status_code in {404, 410}:
        raise NotFound(what)
    if reply.status_code in {403, 408, 429} or reply.status_code >= 500:
        after = natural(reply.headers.get("retry-after", "")) or 0
        raise _Again(what, min(float(after), WAIT_MOST_SECONDS))
    raise Internal(what)


async def _retried(call: Callable[[], Awaitable[T]]) -> T:
    attempt = 1
    while True:
        try:
            return await call()
        except _Again as error:
            if attempt == ATTEMPTS:
                raise Unavailable(f"{error}, {ATTEMPTS} times") from None
            await asyncio.sleep(max(error.seconds, PAUSE_SECONDS * 4**attempt))
        attempt += 1


def _client() -> "httpx.AsyncClient":
    import httpx

    return httpx.AsyncClient(
        timeout=httpx.Timeout(30.0, connect=10.0),
        verify=ssl.create_default_context(),
        headers={"User-Agent": f"sandkeeper/{__version__}", "Accept-Encoding": "identity"},
    )


def _faults() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.TransportError, httpx.DecodingError)
