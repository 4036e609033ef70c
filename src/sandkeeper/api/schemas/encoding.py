"""Files and directories as JSON, made block by block so that a large directory costs no memory."""

import os
import posixpath
from collections.abc import Generator, Iterable, Iterator

from sandkeeper.api.edge.long_answers import Frame
from sandkeeper.api.edge.respond import encode_json, utf8
from sandkeeper.api.schemas.files import File, Subdirectory
from sandkeeper.blocks import gathered
from sandkeeper.files.entries import Owners, permissions
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Text
from sandkeeper.files.trees import TreeFile
from sandkeeper.journal.output import PIECE_BYTES, pieces_of
from sandkeeper.linux.clocks import rfc3339

__all__ = ["DirectoryEncoder", "encode_file", "file_blocks", "file_entry"]

ENTRY_WEIGHT = 300
NAMES = 1000
SENT_BYTES = 256 << 10
"""Blocks of this size at least are handed to the event loop; JSON of a piece may have six times."""

Entries = list[tuple[str, os.stat_result]]


def file_entry(owners: Owners, path: str, name: str, info: os.stat_result) -> File:
    """Make the wire's File of a stat(2) result."""
    return File(
        path,
        name,
        permissions(info.st_mode),
        info.st_size,
        rfc3339(info.st_mtime_ns),
        owners.user(info.st_uid),
        owners.group(info.st_gid),
    )


def encode_file(owners: Owners, target: Target, info: os.stat_result, data: bytes) -> bytes:
    """Encode a file with its content, in which bytes that are not UTF-8 become U+FFFD."""
    text = data.decode("utf-8", "replace")
    return encode_json(_with_content(owners, target, info, len(data), text))


def file_blocks(owners: Owners, target: Target, text: Text) -> Iterator[bytes]:
    """Encode a long file as `encode_file` does, in blocks and while it is read."""
    frame = Frame(lambda marks: _with_content(owners, target, text.info, text.size, marks[0]), 1)
    return gathered(frame.around(pieces_of(text.blocks)), SENT_BYTES)


def _with_content(
    owners: Owners, target: Target, info: os.stat_result, size: int, content: str
) -> File:
    name = posixpath.basename(target.absolute)
    entry = file_entry(owners, utf8(target.shown), utf8(name), info)
    entry.size = info.st_size or size
    entry.content = content
    return entry


class DirectoryEncoder:
    """Encodes one Directory."""

    def __init__(self, owners: Owners, target: Target) -> None:
        self._owners = owners
        self._path = target.shown
        self._name = posixpath.basename(target.absolute) or "/"
        self._clean = posixpath.normpath(self._path)

    def blocks(self, batches: Iterable[Entries], directories: list[str]) -> Iterator[bytes]:
        """Yield the JSON text; names stand below the directory and may contain slashes."""
        yield self._head()
        separator = b""
        for batch in batches:
            text = self._files(batch)
            if text:
                yield separator + text
                separator = b","
        yield b'],"subdirectories":'
        yield from self._subdirectories(directories)
        yield b"}"

    def tree_blocks(
        self, files: Iterable[tuple[TreeFile, Iterator[bytes] | None]], directories: list[str]
    ) -> Generator[bytes, None, None]:
        """Yield a recursive directory, with the contents that are given."""
        return gathered(self._tree_blocks(files, directories), SENT_BYTES)

    def _tree_blocks(
        self, files: Iterable[tuple[TreeFile, Iterator[bytes] | None]], directories: list[str]
    ) -> Iterator[bytes]:
        yield self._head()
        few: list[File] = []
        weight = 0
        separator = b""
        for item, blocks in files:
            long = blocks is not None and (item.source or item.info).st_size > PIECE_BYTES
            if few and (long or weight >= PIECE_BYTES):
                yield separator + encode_entries(few)
                few, weight, separator = [], 0, b","
            if long and blocks is not None:
                yield separator
                yield from self._long_file(item, blocks)
                separator = b","
                continue
            data = _whole(blocks)
            few.append(self._tree_file(item, data))
            weight += ENTRY_WEIGHT + len(data or b"")
        if few:
            yield separator + encode_entries(few)
        yield b'],"subdirectories":'
        yield from self._subdirectories(directories)
        yield b',"recursive":true}'

    def _tree_file(self, item: TreeFile, data: bytes | None) -> File:
        name = posixpath.basename(item.relative)
        entry = file_entry(self._owners, self._under() + item.relative, name, item.info)
        if data is not None:
            entry.content = data.decode("utf-8", "replace")
        return entry

    def _long_file(self, item: TreeFile, blocks: Iterator[bytes]) -> Iterator[bytes]:
        entry = self._tree_file(item, None)
        entry.path, entry.name = utf8(entry.path), utf8(entry.name)

        def made(marks: list[str]) -> File:
            entry.content = marks[0]
            return entry

        return Frame(made, 1).around(pieces_of(blocks))

    def _head(self) -> bytes:
        path = encode_json(utf8(self._path))
        return b'{"path":' + path + b',"name":' + encode_json(utf8(self._name)) + b',"files":['

    def _under(self) -> str:
        return "" if self._clean == "." else self._clean.rstrip("/") + "/"

    def _files(self, batch: Entries) -> bytes:
        owners, under = self._owners, self._under()
        entries = [file_entry(owners, under + name, name, info) for name, info in batch]
        return encode_entries(entries)

    def _subdirectories(self, names: list[str]) -> Iterator[bytes]:
        under = self._under()
        before = b"["
        for at in range(0, len(names), NAMES):
            made = [Subdirectory(under + n, posixpath.basename(n)) for n in names[at : at + NAMES]]
            try:
                text = encode_json(made)
            except UnicodeEncodeError:
                text = encode_json([Subdirectory(utf8(d.path), utf8(d.name)) for d in made])
            yield before + text[1:-1]
            before = b","
        yield b"]" if names else b"[]"


def _whole(blocks: Iterator[bytes] | None) -> bytes | None:
    try:
        return None if blocks is None else b"".join(blocks)
    except OSError:  # opened, but it cannot be read
        return None


def encode_entries(entries: list[File]) -> bytes:
    """Encode entries as the inside of a JSON array."""
    try:
        return encode_json(entries)[1:-1]
    except UnicodeEncodeError:  # names that are not UTF-8
        for entry in entries:
            entry.path, entry.name = utf8(entry.path), utf8(entry.name)
        return encode_json(entries)[1:-1]
