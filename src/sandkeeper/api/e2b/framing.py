"""Frames of Connect's streams (connectrpc.com, "Streaming RPCs"): one byte of flags, a length of
four bytes, big-endian, and so many bytes of JSON, compressed where that was agreed on. Bytes in,
bytes out.
"""

import struct
from collections.abc import Iterator

from sandkeeper.api.edge.bodies.coding import Inflated

__all__ = ["END", "HEAD_BYTES", "BadFrame", "Frames", "TooLong", "frame"]

COMPRESSED, END = 1, 2
HEAD_BYTES = 5
_HEAD = struct.Struct(">BI")


class BadFrame(Exception):
    """What a client sends is no frame of a request."""


class TooLong(Exception):
    """A frame announces more than may be sent."""


def frame(payload: bytes, flags: int = 0) -> bytes:
    """Return a frame."""
    return _HEAD.pack(flags, len(payload)) + payload


class Frames:
    """Cuts frames out of bytes that come in pieces; never holds more than one of `most` bytes.

    With `gzip` each may be compressed, and has at most so many bytes before and after.
    """

    def __init__(self, most: int, *, gzip: bool = False) -> None:
        self._most = most
        self._gzip = gzip
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the payloads that are complete now.

        Raises TooLong as soon as a length is announced, BadFrame for flags that no request has,
        BadInput for what is no gzip.
        """
        self._waiting += data
        at = 0
        try:
            while len(self._waiting) - at >= HEAD_BYTES:
                flags, length = _HEAD.unpack_from(self._waiting, at)
                if flags == COMPRESSED and not self._gzip:
                    raise BadFrame("a frame is compressed, but no compression was agreed on")
                if flags & ~COMPRESSED:
                    raise BadFrame(f"a frame of a request has the flags {flags:#x}")
                if length > self._most:
                    raise TooLong(f"a message of {length} bytes is larger than {self._most}")
                if len(self._waiting) - at - HEAD_BYTES < length:
                    return
                start = at + HEAD_BYTES
                at = start + length
                payload = bytes(self._waiting[start:at])
                yield self._inflated(payload) if flags else payload
        finally:
            del self._waiting[:at]

    def _inflated(self, packed: bytes) -> bytes:
        unpacker, whole = Inflated(), bytearray()
        for piece in unpacker.feed(packed):
            whole += piece
            if len(whole) > self._most:
                raise TooLong(f"a message is larger than {self._most} bytes when it is inflated")
        unpacker.finish()
        return bytes(whole)

    def finish(self) -> None:
        """Raise BadFrame when the bytes end within a frame."""
        if self._waiting:
            raise BadFrame(
                f"the stream ends within a frame, after {len(self._waiting)} bytes of it"
            )
