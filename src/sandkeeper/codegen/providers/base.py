"""What a provider is, and the one way to ask a remote one: bounded in time and size."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from sandkeeper.errors import Unprocessable
from sandkeeper.linux.children.children import Children
from sandkeeper.numerals import decimal
from sandkeeper.settings import Environment

if TYPE_CHECKING:
    import httpx

__all__ = ["Document", "Host", "Provider", "post_json", "scored", "within_tokens"]

CONNECT_SECONDS = 10.0
DEFAULT_SECONDS = 60.0
ANSWER_BYTES = 32 << 20
ERROR_BYTES = 500
CHARACTERS_PER_TOKEN = 4
"""A common estimate; only Relace counts with a real tokeniser, on its side."""

Ranking = list[tuple[int, float]]
"""Positions in the list of documents with their scores, best first."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file to rank: its path as the caller will see it, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Host:
    """What a provider may use: the live environment, and helper programs."""

    environment: Environment
    children: Children


class Provider(Protocol):
    """Computes edits and rankings; both raise Unprocessable with a text for the caller."""

    @property
    def name(self) -> str:
        """What the reply calls this provider."""

    @classmethod
    def configured(cls, host: Host) -> Self | None:
        """Return an instance when the environment has what this provider needs."""

    async def apply(self, original: str, edit: str, model: str) -> str:
        """Return `original` with `edit` merged in."""

    async def rank(self, query: str, documents: Sequence[Document], token_limit: int) -> Ranking:
        """Rank the documents; the ranked ones together have about `token_limit` tokens."""


def timeout_of(host: Host) -> float:
    """Read `SANDKEEPER_CODEGEN_TIMEOUT` (seconds, 60), the time one answer may take."""
    seconds = decimal(host.environment.get("SANDKEEPER_CODEGEN_TIMEOUT").strip()) or 0.0
    return seconds if 0 < seconds < math.inf else DEFAULT_SECONDS


async def post_json(
    url: str, payload: Mapping[str, Any], *, key: str, name: str, seconds: float
) -> Any:
    """POST JSON with a bearer key and return the decoded answer.

    Raises Unprocessable when there is no answer within `seconds`, when it is not 200, not JSON, or
    larger than 32 MiB (it is not read further then).
    """
    try:
        async with asyncio.timeout(seconds):
            client = await asyncio.to_thread(_client)
            async with client:
                return msgspec.json.decode(await _exchange(client, url, payload, key, name))
    except TimeoutError:
        raise Unprocessable(f"{name} API request failed: no answer in {seconds:g} s") from None
    except msgspec.DecodeError:
        raise Unprocessable(f"{name} API answered with something that is not JSON") from None
    except UnicodeError:
        raise Unprocessable(f"{name} API answered with text that is not UTF-8") from None


def _client() -> "httpx.AsyncClient":
    """Import httpx and read the certificates: both take too long for the event loop."""
    import httpx

    return httpx.AsyncClient(timeout=httpx.Timeout(None, connect=CONNECT_SECONDS))


async def _exchange(
    client: "httpx.AsyncClient", url: str, payload: Mapping[str, Any], key: str, name: str
) -> bytes:
    import httpx

    # Compressed answers are not asked for: a small one could unpack to any size.
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
    }
    content = msgspec.json.encode(payload)
    try:
        async with client.stream("POST", url, content=content, headers=headers) as reply:
            if reply.status_code != 200:
                text = (await _read(reply, ERROR_BYTES, name, strict=False)).decode(
                    "utf-8", "replace"
                )
                raise Unprocessable(
                    f"{name} API request failed with status {reply.status_code}: {text}"
                )
            return await _read(reply, ANSWER_BYTES, name, strict=True)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        kind = str(error) or type(error).__name__
        raise Unprocessable(f"{name} API request failed: {kind}") from None


async def _read(reply: "httpx.Response", limit: int, name: str, *, strict: bool) -> bytes:
    kept = bytearray()
    async for chunk in reply.aiter_raw():
        kept += chunk
        if len(kept) > limit:
            if strict:
                raise Unprocessable(f"{name} API answered with more than {limit} bytes")
            break
    return bytes(kept[:limit])


def scored(pairs: Iterable[tuple[Any, Any]], count: int) -> Ranking:
    """Keep what a provider may honestly say: each of `count` documents once, a finite score."""
    seen: set[int] = set()
    kept: Ranking = []
    for index, score in pairs:
        if type(index) is not int or not 0 <= index < count or index in seen:
            continue
        if isinstance(score, bool) or not isinstance(score, int | float):
            continue
        if math.isfinite(score):
            seen.add(index)
            kept.append((index, float(score)))
    return kept


def within_tokens(ranking: Ranking, documents: Sequence[Document], token_limit: int) -> Ranking:
    """Keep the best that fit into about `token_limit` tokens together."""
    room = token_limit * CHARACTERS_PER_TOKEN
    kept: Ranking = []
    for index, score in ranking:
        size = len(documents[index].text)
        if size <= room:
            room -= size
            kept.append((index, score))
    return kept
