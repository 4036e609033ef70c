"""The compressions in which archives come: which one it is, the first bytes tell."""

import gzip
import zlib
from typing import IO, Protocol, cast

from sandkeeper.files.tar import zstd

__all__ = ["FAULTS", "Peekable", "decompressed"]

GZIP_MAGIC = b"\x1f\x8b"

FAULTS = (EOFError, zlib.error, gzip.BadGzipFile, zstd.ZstdFault)
"""What reading raises for bytes that are not what their beginning promised, or that are cut off."""


class Peekable(Protocol):
    """Where an archive comes from."""

    def peek(self, size: int) -> bytes:
        """Return the first bytes without taking them."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; fewer at the end only."""


def decompressed(source: Peekable) -> IO[bytes]:
    """Return the plain bytes of a stream that is gzip, zstd or not compressed."""
    start = source.peek(len(zstd.MAGIC))
    if start == zstd.MAGIC:
        return zstd.unpacking(source)
    if start.startswith(GZIP_MAGIC):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=cast("IO[bytes]", source)))
    return cast("IO[bytes]", source)
