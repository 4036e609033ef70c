"""Recordings of terminals: the journal as an asciicast, version 2.

Format: https://docs.asciinema.org/manual/asciicast/v2/ (a header line, then `[seconds, kind, data]`
lines; `o` is output, `r` a new size, `m` a marker).
"""

import codecs
from collections.abc import AsyncIterator, Iterator

from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.segment import NOTICE
from sandkeeper.jsonlines import json_line
from sandkeeper.terminals.mirror import read_batch
from sandkeeper.terminals.terminal import Terminal

__all__ = ["recording"]

BLOCK_BYTES = 128 << 10


async def recording(terminal: Terminal) -> AsyncIterator[bytes]:
    """Yield the lines of an asciicast of all that is kept up to now."""
    meta, journal = terminal.meta, terminal.journal
    header = {
        "version": 2,
        "width": meta.cols,
        "height": meta.rows,
        "timestamp": int(meta.started_at),
        "title": meta.name,
        "env": {"SHELL": meta.shell, "TERM": "xterm-256color"},
    }
    yield json_line(header)
    tape = _Tape(int(meta.started_at * 1e6))
    offset, target = 0, journal.tail
    with Reader(journal) as reader:
        while offset < target:
            for item in await read_batch(reader, offset, min(BLOCK_BYTES, target - offset)):
                offset = item.end
                for event in tape.events(item):
                    yield event


class _Tape:
    def __init__(self, start: int) -> None:
        self._start = start
        self._last = 0.0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def events(self, item: Chunk | Gap) -> Iterator[bytes]:
        """Return the lines of one piece of the journal."""
        if isinstance(item, Gap):
            yield self._event("m", f"{item.end - item.start} bytes are not kept")
            return
        self._last = max(self._last, (item.time - self._start) / 1e6)
        if item.stream == NOTICE:
            for size in item.data.decode("ascii", "replace").split(";"):
                if size:
                    yield self._event("r", size)
        elif text := self._decoder.decode(item.data):
            yield self._event("o", text)

    def _event(self, kind: str, data: str) -> bytes:
        return json_line([round(self._last, 6), kind, data])
