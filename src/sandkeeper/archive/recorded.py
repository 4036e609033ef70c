"""A snapshot kept in a file: what the machine looked like while it was pristine.

The file is one zstd stream of msgpack values: a head, then one array for each entry, in the order
of `archive.snapshot`. It is read as a stream too, however many entries it has.
"""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import msgspec

from sandkeeper.archive.snapshot import EntryFacts, LeftOut, TreeEntry, key_of, look
from sandkeeper.files.tar import zstd
from sandkeeper.linux.paths.statefiles import open_plain

__all__ = ["BadBaseline", "Baseline", "record"]

VERSION = 1
READ_BYTES = 256 << 10
ENTRY_BYTES = 16 << 20
LEVEL = 3


class BadBaseline(Exception):
    """The file is no baseline, or a newer version of one, or cut off."""


class _Head(msgspec.Struct):
    version: int
    root: str
    recorded_at: float
    anchor: tuple[int, int]
    left_out: list[str]


_Record = tuple[bytes, int, int, int, int, int, int, bytes, int]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


def record(
    root: str, folder: Path, left_out: LeftOut, check: Callable[[], None] = lambda: None
) -> int:
    """Write the baseline of `root` into `folder`; returns how many entries it has.

    What changes while it is written is not in it, so it counts as added later. Raises OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    anchor = folder / "anchor"
    anchor.write_bytes(b"")
    info = os.stat(anchor)
    began = info.st_mtime_ns
    head = _Head(
        VERSION, root, time.time(), (info.st_ino, info.st_ctime_ns), sorted(left_out.paths)
    )
    temporary = folder / "baseline.new"
    count = 0
    packer = zstd.packer(LEVEL)
    with open(temporary, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(packer.compress(_framed(_encode(head))))
        for entry in look(root, left_out, check):
            if entry.is_directory or entry.facts.ctime < began:
                value = _encode((os.fsencode(entry.path), *entry.facts))
                file.write(packer.compress(_framed(value)))
                count += 1
        file.write(packer.compress(_framed(b"")) + packer.flush())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / "baseline")
    return count


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


class Baseline:
    """A baseline to read; `on_this_disk` says whether change times can be compared as well.

    They cannot once the files have been copied elsewhere, as layers of images are.
    """

    def __init__(self, folder: Path) -> None:
        """Read the head; raises FileNotFoundError, OSError or BadBaseline."""
        self._path = folder / "baseline"
        with contextlib.closing(self._values()) as values:
            try:
                self._head = msgspec.msgpack.decode(next(values), type=_Head)
            except (msgspec.DecodeError, RecursionError, StopIteration):
                raise BadBaseline(f"{self._path} is no baseline") from None
        if self._head.version != VERSION:
            raise BadBaseline(f"{self._path} has version {self._head.version}, not {VERSION}")
        self.on_this_disk = False
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(folder / "anchor")
            self.on_this_disk = (info.st_ino, info.st_ctime_ns) == self._head.anchor

    @property
    def root(self) -> str:
        """The directory it was recorded of."""
        return self._head.root

    @property
    def left_out(self) -> list[str]:
        """The paths that were not looked at."""
        return self._head.left_out

    def entries(self) -> Iterator[TreeEntry]:
        """Yield what it holds; raises BadBaseline when it is cut off."""
        values = self._values()
        next(values)
        for value in values:
            try:
                name, *facts = _decode(value)
                path = os.fsdecode(name)
                entry = TreeEntry(path, key_of(path), EntryFacts(*facts))
            except (msgspec.DecodeError, RecursionError, TypeError, ValueError):
                raise BadBaseline(f"{self._path} is damaged") from None
            yield entry

    def _values(self) -> Generator[bytes, None, None]:
        with open(open_plain(self._path), "rb") as file:
            reader = zstd.unpacking(file)
            rest = b""
            try:
                while block := reader.read(READ_BYTES):
                    rest += block
                    place = 0
                    while len(rest) - place >= 4:
                        end = place + 4 + int.from_bytes(rest[place : place + 4], "little")
                        if end == place + 4:
                            return
                        if end > len(rest):
                            break
                        yield rest[place + 4 : end]
                        place = end
                    rest = rest[place:]
                    if len(rest) > ENTRY_BYTES:  # no entry is so long: its length is damaged
                        break
            except zstd.ZstdFault:
                raise BadBaseline(f"{self._path} is damaged") from None
            except EOFError:
                raise BadBaseline(f"{self._path} is cut off") from None
        raise BadBaseline(f"{self._path} is cut off")
