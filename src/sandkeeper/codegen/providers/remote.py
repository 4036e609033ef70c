"""A provider over HTTP: set up by a key, asked in one way that is bounded in time and size."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from sandkeeper.codegen.providers.base import Host, timeout_of
from sandkeeper.errors import Unprocessable

if TYPE_CHECKING:
    import httpx

__all__ = ["Remote", "post_json"]

CONNECT_SECONDS = 10.0
ANSWER_BYTES = 32 << 20
ERROR_BYTES = 500


@dataclass(frozen=True, slots=True)
class Remote:
    """Models over HTTP: where they are, the key for them, and how long one answer may take."""

    base: str
    key: str
    seconds: float

    name: ClassVar[str]
    word: ClassVar[str]
    """What the texts of errors call it."""
    base_variable: ClassVar[str]
    default_base: ClassVar[str]
    key_variable: ClassVar[str]

    @classmethod
    def configured(cls, host: Host) -> Self | None:
        """Return an instance when there is a key."""
        key = host.environment.get(cls.key_variable)
        base = host.environment.get(cls.base_variable).rstrip("/") or cls.default_base
        return cls(base, key, timeout_of(host)) if key else None

    async def post(self, path: str, payload: dict[str, Any]) -> Any:
        """POST JSON to a path of it; raises Unprocessable as `post_json`."""
        return await post_json(
            self.base + path, payload, key=self.key, name=self.word, seconds=self.seconds
        )

    async def post_for_merged(self, path: str, payload: dict[str, Any], *place: str | int) -> str:
        """POST and return the text that stands at `place` of the answer."""
        found = await self.post(path, payload)
        try:
            for step in place:
                found = found[step]
        except (TypeError, LookupError):
            found = None
        if not isinstance(found, str) or not found:
            raise Unprocessable(f"{self.word} API answered without merged code")
        return found

    async def post_for_results(
        self, path: str, query: str, documents: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]:
        """POST a query and return the objects among the answer's `results`."""
        answer = await self.post(path, {"query": query, **documents})
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list):
            raise Unprocessable(f"{self.word} API answered without results")
        return [item for item in results if isinstance(item, dict)]


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
