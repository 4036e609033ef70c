"""The JSON documents at the front of an archive, read bit by bit.

A decoder that is given all of a text keeps the interpreter for itself until it has come to its
end, and builds whatever is in it: 256 MiB of empty strings are gigabytes. Here a value is decoded
at a time, lists are walked through, and what is not wanted is dropped at once.
"""

import codecs
import json
import os
import re
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import msgspec

from sandkeeper.processes.spec import SavedProcess

__all__ = ["ManifestHead", "Paths", "read_head", "read_processes"]

READ_BYTES = 64 << 10
VALUE_CHARS = 16 << 20
"""No value in a list is longer, and none in the documents themselves besides lists."""
IN_MEMORY_BYTES = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
# Python's decoder, for lone surrogates: they stand for names that are not UTF-8.
_decode = json.JSONDecoder().raw_decode


class Paths:
    """Paths in a file of its own, in order; gone with it."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - see `close`

    def add(self, path: object) -> None:
        """Take one up; raises ValueError for what is none."""
        if not isinstance(path, str) or "\0" in path:
            raise ValueError("a path is no text")
        self._file.write(os.fsencode(path) + b"\0")

    def clear(self) -> None:
        """Forget all."""
        self._file.seek(0)
        self._file.truncate()

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        rest = b""
        while block := self._file.read(READ_BYTES):
            *whole, rest = (rest + block).split(b"\0")
            yield from map(os.fsdecode, whole)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class ManifestHead(msgspec.Struct, rename="camel"):
    """What a manifest says that is needed before all else, but for what was `deleted`."""

    version: int
    created_at: str = ""
    processes: bool = False


def read_head(source: IO[bytes], deleted: Paths) -> ManifestHead:
    """Read a manifest; `deleted` is filled. Raises ValueError, RecursionError, OSError."""
    text, values = _Text(source), dict[str, object]()
    for name in text.fields():
        if text.next() != "[":
            values[name] = text.value()[0]
            continue
        if name == "deleted":
            deleted.clear()
        for _ in text.elements():
            value = text.value()[0]
            if name == "deleted":
                deleted.add(value)
        values[name] = []
    if not isinstance(values.pop("deleted", []), list):
        raise ValueError("deleted is no list")
    return msgspec.convert(values, ManifestHead)


def read_processes(source: IO[bytes]) -> list[SavedProcess]:
    """Read the processes that were running; raises as `read_head`."""
    text, found = _Text(source), list[SavedProcess]()
    for name in text.fields():
        if text.next() != "[":
            text.value()
            continue
        wanted = name == "processes"
        for _ in text.elements():
            raw = text.value()[1]
            if wanted:
                found.append(msgspec.json.decode(raw.encode(), type=SavedProcess))
    return found


class _Text:
    """A JSON text, of which a window is in memory; all methods raise ValueError."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._is_over = False

    def _more(self, count: int = READ_BYTES) -> bool:
        """Read on; False at the end."""
        if self._is_over:
            return False
        block = self._source.read(count)
        self._is_over = not block
        self._text = self._text[self._at :] + self._decoder.decode(block, final=self._is_over)
        self._at = 0
        return True

    def next(self) -> str:
        """Return the next character that is no space, without taking it; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> str:
        """Take the next character, one of those that are wanted."""
        found = self.next()
        if not found or found not in wanted:
            raise ValueError(f"{wanted[0]!r} is missing")
        self._at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """Take a value; returns it and how it is written."""
        self.next()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except ValueError:
                here = len(self._text) - self._at
                if here >= VALUE_CHARS or not self._more(max(READ_BYTES, here)):
                    raise
                continue
            if end < len(self._text) or not self._more():  # a number may go on
                raw = self._text[self._at : end]
                self._at = end
                return value, raw

    def elements(self) -> Iterator[None]:
        """Walk through a list: each value is taken before the next."""
        self._take("[")
        if self.next() == "]":
            self._at += 1
            return
        while True:
            yield
            if self._take(",]") == "]":
                return

    def fields(self) -> Iterator[str]:
        """Walk through the object that the text is, to its end; as `elements`."""
        self._take("{")
        ended = self.next() == "}"
        self._at += ended
        while not ended:
            name = self.value()[0]
            if not isinstance(name, str):
                raise ValueError("a name is no text")
            self._take(":")
            yield name
            ended = self._take(",}") == "}"
        if self.next():
            raise ValueError("something stands behind the end")
