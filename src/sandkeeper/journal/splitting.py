"""Lines out of bytes, long ones in parts; needs nothing, for the renderer of telemetry."""

from collections.abc import Iterator

__all__ = ["LineSplitter", "part_end"]


def part_end(data: bytes, limit: int) -> int:
    """Return where to cut bytes that are longer than `limit`: there, or before its character.

    What is no UTF-8 is cut at the limit; a limit below four bytes may cut characters.
    """
    end = limit
    while end > limit - 4 and end > 0 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end if end > 0 and data[end] & 0xC0 != 0x80 else limit


class LineSplitter:
    """Collects the lines of one stream; a line longer than `limit` comes in parts.

    `pending` is what stands behind the last newline, `start` its offset.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.pending = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield (line without its newline, whether the line ends there)."""
        *whole, rest = (self.pending + data).split(b"\n") if self.pending else data.split(b"\n")
        for line in whole:
            yield from self._parts(line, True)
        while len(rest) > self._limit:
            end = part_end(rest, self._limit)
            yield rest[:end], False
            rest = rest[end:]
        self.pending = rest

    def skip(self, data: bytes) -> None:
        """Take `pending` and what follows it, `data` in all, without looking at the lines."""
        rest = data[data.rfind(b"\n") + 1 :]
        while len(rest) > self._limit:
            rest = rest[part_end(rest, self._limit) :]
        self.pending = rest

    def _parts(self, line: bytes, ends: bool) -> Iterator[tuple[bytes, bool]]:
        while len(line) > self._limit:
            end = part_end(line, self._limit)
            yield line[:end], False
            line = line[end:]
        yield line, ends
