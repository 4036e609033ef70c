"""Content codings (RFC 9110, 8.4): gzip of what comes in and of what goes out, in bounded pieces.

What comes is inflated 64 KiB at a time, each in a round of the loop: however little a client sends
for however much, nobody waits for it and nothing of it is kept.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping

from starlette.requests import Request

from sandkeeper.api.edge.bodies.weights import weights_of
from sandkeeper.errors import BadInput

__all__ = ["Inflated", "accepts", "deflated", "inflated", "is_gzip", "wants_gzip"]

PIECE_BYTES = 64 << 10
_GZIP = 16 + zlib.MAX_WBITS
LEVEL = 1
"""Half the size of text at a third of the time of level 6."""


def accepts(header: str) -> dict[str, float]:
    """Return the weight of each coding of an Accept-Encoding (RFC 9110, 12.5.3)."""
    weights = weights_of(header)
    if "x-gzip" in weights:
        weights["gzip"] = weights.pop("x-gzip")
    return weights


def wants_gzip(headers: Mapping[str, str]) -> bool:
    """Say whether a download is to be compressed.

    That is when gzip is the one coding that is named: libraries name all that they know with every
    request, and to compress what goes over a fast network takes longer than to send it.
    """
    weights = accepts(headers.get("accept-encoding", ""))
    if not weights.get("gzip"):
        return False
    others = {name for name, weight in weights.items() if weight and name != "gzip"}
    return not others or (others == {"identity"} and weights["identity"] < weights["gzip"])


def deflated(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the gzip form of blocks; blocks."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    for block in blocks:
        if packed := packer.compress(block):
            yield packed
    yield packer.flush()


def is_gzip(request: Request) -> bool:
    """Say whether a body is compressed; raises BadInput for a coding that is not gzip."""
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding in {"", "identity"}:
        return False
    if coding not in {"gzip", "x-gzip"}:
        raise BadInput(f"Content-Encoding: {coding[:32]!r} is not supported: use gzip or none")
    return True


class Inflated:
    """Inflates gzip that comes in pieces; members may follow one another (RFC 1952, 2.2)."""

    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(_GZIP)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what it is in pieces of 64 KiB at most; raises BadInput for what is no gzip."""
        while data:
            if self._unpacker.eof:
                self._unpacker = zlib.decompressobj(_GZIP)
            self._begun = True
            try:
                piece = self._unpacker.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise BadInput(f"the body is no gzip: {error}") from None
            if piece:
                yield piece
            data = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    def finish(self) -> None:
        """Raise BadInput when the last member is not whole."""
        if self._begun and not self._unpacker.eof:
            raise BadInput("the body is no gzip: it ends too early")


async def inflated(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the plain form of a body that is gzip; raises BadInput."""
    unpacker = Inflated()
    async for block in blocks:
        for piece in unpacker.feed(block):
            yield piece
            await asyncio.sleep(0)
    unpacker.finish()
