"""Chosen entries of a folder here as a tar stream, and what they were when they were packed."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from sandkeeper.client.files.trees import FILE, FOLDER, LINK, Item
from sandkeeper.client.output import complain

__all__ = ["SENT_BYTES", "Packing"]

BLOCK_BYTES = 1 << 20
SENT_BYTES = 256 << 10
"""How much is sent at once: each piece is a write of its own."""
RECORD_BYTES = 512


class Packing:
    """Entries as a tar stream, block by block; `sent` is what they were when they were packed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.sent: dict[str, Item] = {}
        self.unreadable: set[str] = set()

    def blocks(self, paths: list[str]) -> Iterator[bytes]:
        """Give the stream; what cannot be read is told and left out."""
        for path in paths:
            try:
                yield from self._entry(path)
            except FileNotFoundError:
                continue  # it has gone meanwhile
            except OSError as error:
                self.unreadable.add(path)
                complain(f"{path}: {str(error.strerror).lower()}")
        yield bytes(2 * RECORD_BYTES)

    def _entry(self, path: str) -> Iterator[bytes]:
        place = self._root / path
        member = tarfile.TarInfo(path)
        if place.is_symlink():
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(place)
            self.sent[path] = Item(LINK, link=member.linkname)
            yield _head(member)
            return
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(place, flags)
        try:
            info = os.fstat(fd)
            member.mode, member.mtime = info.st_mode & 0o777, info.st_mtime_ns / 1e9
            if place.is_dir():
                member.type = tarfile.DIRTYPE
                self.sent[path] = Item(FOLDER, mode=member.mode)
                yield _head(member)
                return
            member.size = info.st_size
            yield _head(member)
            yield from _content(fd, member.size)
            self.sent[path] = Item(FILE, member.size, member.mtime, member.mode)
        finally:
            os.close(fd)


def _head(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(fd: int, length: int) -> Iterator[bytes]:
    """Give so many bytes; what a file has lost meanwhile is NUL, and differs the next time."""
    left = length
    while left > 0:
        block = os.read(fd, min(BLOCK_BYTES, left)) or bytes(min(BLOCK_BYTES, left))
        left -= len(block)
        yield block
    if length % RECORD_BYTES:
        yield bytes(RECORD_BYTES - length % RECORD_BYTES)
