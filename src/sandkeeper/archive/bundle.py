"""A tar whose exact length is known before its first byte is made, and of which any part can be
made again.

First a plan is written to a file: one record for each member. From it the tar follows byte by
byte, at any offset, with no more in memory than one block. What a file holds is read only then; a
file that has shrunk is filled up with NUL, one that has grown is cut, and both are reported.
"""

import array
import struct
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Final, Protocol

import msgspec

from sandkeeper.archive.snapshot import TreeChange
from sandkeeper.files.changing.holes import has_holes
from sandkeeper.files.tar.packing import XATTR_PREFIX, member_of
from sandkeeper.files.tar.sparse import spans_of, sparse_header
from sandkeeper.linux.paths import useros as os

__all__ = ["Bundle", "ByteSource", "Plan", "Spool"]

BLOCK = 512
_ROOT = os.geteuid() == 0
READ_BYTES = 1 << 20
GATHER_BYTES = 256 << 10
INDEX_EVERY = 512
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMAT: Final = 2  # tarfile.PAX_FORMAT, as a literal for its type
_USTAR = struct.Struct("100s8s8s8s12s12s8s1s100s8s247x")
XATTRS = ("user.", "security.capability", "system.posix_acl_", "trusted.")


class ByteSource(Protocol):
    """Bytes of a known number, to be had from any offset, as often as needed."""

    size: int

    def blocks(self, start: int, length: int, check: Callable[[], None]) -> Iterator[bytes]:
        """Yield exactly `length` bytes from `start`; `check` may raise to stop."""


class _Member(msgspec.Struct, array_like=True):
    """A record: the change, how the member is described, and how long its headers are."""

    kind: str
    path: bytes
    type: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = {}
    head: int = 0
    spans: list[tuple[int, int]] | None = None

    @property
    def stored(self) -> int:
        """How many bytes of the file are in the tar: all but holes."""
        return self.size if self.spans is None else sum(length for _, length in self.spans)

    @property
    def span(self) -> int:
        """How many bytes of the tar it takes."""
        return self.head + _padded(self.stored) if self.head else 0

    def pieces(self, at: int) -> Iterator[tuple[int, int]]:
        """Yield where in the file lies what is stored from `at` on, as (offset, length)."""
        for offset, length in [(0, self.size)] if self.spans is None else self.spans:
            if at < length:
                yield offset + at, length - at
            at = max(0, at - length)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Member).decode


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


@dataclass
class Plan:
    """What goes into the tar; counts and sizes in bytes. `file` is deleted when it is closed."""

    file: IO[bytes]
    added: int = 0
    modified: int = 0
    payload: int = 0
    size: int = 0
    deleted: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._count = 0
        self._place = 0
        self._offsets = array.array("q")
        self._places = array.array("q")
        self._links: dict[tuple[int, int], tuple[bytes, int]] = {}

    def add(self, change: TreeChange) -> None:
        """Take up a change; sockets are left out, and so is what went away meanwhile."""
        if change.entry is None:
            self.deleted.append(change.path)
            self._write(_Member("deleted", os.fsencode(change.path)))
            return
        assert change.entry.info is not None
        with suppress(FileNotFoundError):
            info = member_of(change.entry.full, change.path, change.entry.info, {})
            if info is None:
                return
            if info.isreg() and not (_ROOT or os.access(change.entry.full, os.R_OK)):
                self.unreadable.append(change.path)
                return
            self._add(change, info, change.entry.info)

    def _add(self, change: TreeChange, info: tarfile.TarInfo, stat: os.stat_result) -> None:
        assert change.entry is not None
        name = os.fsencode(change.path)
        if info.isreg() and stat.st_nlink > 1 and (first := self._first(name, stat)):
            info.type, info.linkname, info.size = tarfile.LNKTYPE, os.fsdecode(first), 0
        member = _Member(
            change.kind,
            name,
            info.type,
            info.mode,
            info.uid,
            info.gid,
            info.size,
            int(info.mtime),
            os.fsencode(info.linkname),
            (info.devmajor, info.devminor),
            {} if info.issym() or info.islnk() else _xattrs(change.entry.full),
            spans=_spans(change.entry.full, stat) if info.isreg() else None,
        )
        member.head = BLOCK if _is_plain(member) else len(_header(member))
        self.added += change.kind == "added"
        self.modified += change.kind == "modified"
        self.payload += info.size
        self._write(member)

    def _first(self, name: bytes, stat: os.stat_result) -> bytes:
        """Return the first name of a file with several; forgotten once all have been seen."""
        key = (stat.st_dev, stat.st_ino)
        first, left = self._links.pop(key, (b"", stat.st_nlink))
        if left > 1:
            self._links[key] = (first or name, left - 1)
        return first

    def _write(self, member: _Member) -> None:
        if self._count % INDEX_EVERY == 0:
            self._offsets.append(self.size)
            self._places.append(self._place)
        data = _encode(member)
        self.file.write(len(data).to_bytes(4, "little") + data)
        self._place += 4 + len(data)
        self._count += 1
        self.size += member.span

    def changes(self) -> Iterator[tuple[str, str, int]]:
        """Yield kind, path and size of every change."""
        for member in self._members(0):
            yield member.kind, os.fsdecode(member.path), member.size

    def members_from(self, offset: int) -> Iterator[tuple[int, _Member]]:
        """Yield the members that reach beyond `offset`, each with where it begins."""
        import bisect

        slot = max(0, bisect.bisect_right(self._offsets, offset) - 1)
        begins = self._offsets[slot] if self._offsets else 0
        for member in self._members(self._places[slot] if self._places else 0):
            if begins + member.span > offset:
                yield begins, member
            begins += member.span

    def _members(self, place: int) -> Iterator[_Member]:
        self.file.flush()
        fd = self.file.fileno()
        rest = b""
        while block := os.pread(fd, GATHER_BYTES, place):
            place += len(block)
            rest += block
            at = 0
            while len(rest) - at >= 4:
                end = at + 4 + int.from_bytes(rest[at : at + 4], "little")
                if end > len(rest):
                    break
                yield _decode(rest[at + 4 : end])
                at = end
            rest = rest[at:]


def _xattrs(path: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with suppress(OSError):  # a file system without them
        for name in os.listxattr(path, follow_symlinks=False):
            if name.startswith(XATTRS) and not name.startswith("trusted.overlay."):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _spans(path: str, info: os.stat_result) -> list[tuple[int, int]] | None:
    if not has_holes(info):
        return None
    fd = os.open(path, _READ)
    try:
        return spans_of(fd, info)
    finally:
        os.close(fd)


def _is_plain(member: _Member) -> bool:
    """Say whether one header of POSIX.1-1988 holds it all, as for nearly every file."""
    return (
        len(member.path) < 100
        and len(member.link) < 100
        and member.path.isascii()
        and member.link.isascii()
        and not member.xattrs
        and member.spans is None
        and member.device == (0, 0)
        and member.uid < 1 << 21
        and member.gid < 1 << 21
        and member.size < 1 << 33
        and 0 <= member.mtime < 1 << 33
    )


def _plain_header(member: _Member) -> bytes:
    """Make that header: a tenth of the time that tarfile takes, which decides for small files."""
    head = _USTAR.pack(
        member.path + b"/" if member.type == tarfile.DIRTYPE else member.path,
        b"%07o" % (member.mode & 0o7777),
        b"%07o" % member.uid,
        b"%07o" % member.gid,
        b"%011o" % member.size,
        b"%011o" % member.mtime,
        b" " * 8,
        member.type,
        member.link,
        b"ustar\x0000",
    )
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _header(member: _Member) -> bytes:
    if _is_plain(member):
        return _plain_header(member)
    info = tarfile.TarInfo(os.fsdecode(member.path))
    info.type, info.mode, info.size = member.type, member.mode, member.size
    info.uid, info.gid, info.mtime = member.uid, member.gid, member.mtime
    info.linkname = os.fsdecode(member.link)
    info.devmajor, info.devminor = member.device
    info.pax_headers = {
        XATTR_PREFIX + name: value.decode("utf-8", "surrogateescape")
        for name, value in member.xattrs.items()
    }
    if member.spans is not None:
        return sparse_header(info, member.spans)
    return info.tobuf(_FORMAT, "utf-8", "surrogateescape")


def _text(path: str, data: bytes, mtime: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime = len(data), 0o600, mtime
    return info.tobuf(_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % BLOCK)


class Bundle:
    """The tar of a plan: `first` are small members by name, then what was planned below `root`."""

    def __init__(
        self,
        root: str,
        plan: Plan,
        first: dict[str, bytes],
        mtime: int,
        changed: Callable[[str], None],
    ) -> None:
        self._root = root
        self._plan = plan
        self._changed = changed
        self._front = b"".join(_text(path, data, mtime) for path, data in first.items())
        self.size = len(self._front) + plan.size + 2 * BLOCK

    def blocks(self, start: int, length: int, check: Callable[[], None]) -> Iterator[bytes]:
        """Yield `length` bytes of it from `start`, in blocks of some hundred KiB."""
        left = length
        waiting: list[bytes] = []
        held = 0
        for block in self._from(start):
            check()
            block = block[:left]
            left -= len(block)
            if len(block) >= GATHER_BYTES and not waiting:
                yield block
            else:
                waiting.append(block)
                held += len(block)
                if held >= GATHER_BYTES:
                    yield b"".join(waiting)
                    waiting, held = [], 0
            if not left:
                break
        if waiting:
            yield b"".join(waiting)

    def _from(self, start: int) -> Iterator[bytes]:
        if start < len(self._front):
            yield self._front[start:]
        front = len(self._front)
        offset = max(0, start - front)
        if offset < self._plan.size:
            for begins, member in self._plan.members_from(offset):
                yield from self._member(member, max(0, offset - begins))
        skip = max(0, start - front - self._plan.size)
        yield bytes(2 * BLOCK - skip)

    def _member(self, member: _Member, skip: int) -> Iterator[bytes]:
        if skip < member.head:
            yield _header(member)[skip:]
        if not member.stored:
            return
        at = max(0, skip - member.head)
        if at < member.stored:
            yield from self._data(member, at)
        end = _padded(member.stored)
        if (padding := end - max(at, member.stored)) > 0:
            yield bytes(padding)

    def _data(self, member: _Member, at: int) -> Iterator[bytes]:
        path = os.path.join(self._root, os.fsdecode(member.path))
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            self._changed(os.fsdecode(member.path))
            yield from _nothing(member.stored - at)
            return
        try:
            for offset, length in member.pieces(at):
                if missing := (yield from _read(fd, offset, length)):
                    self._changed(os.fsdecode(member.path))
                    yield from _nothing(missing)
        finally:
            os.close(fd)


def _read(fd: int, offset: int, length: int) -> Generator[bytes, None, int]:
    """Yield a range of a file; returns how many bytes of it there were not."""
    while length and (block := os.pread(fd, min(READ_BYTES, length), offset)):
        offset += len(block)
        length -= len(block)
        yield block
    return length


def _nothing(size: int) -> Iterator[bytes]:
    while size > 0:
        yield bytes(min(size, READ_BYTES))
        size -= READ_BYTES


class Spool:
    """A stream put into a file first, because its length is known only at its end."""

    def __init__(self, file: IO[bytes], blocks: Iterator[bytes]) -> None:
        """Write all of it; raises OSError (ENOSPC included)."""
        self._file = file
        self.size = 0
        for block in blocks:
            file.write(block)
            self.size += len(block)
        file.flush()

    def blocks(self, start: int, length: int, check: Callable[[], None]) -> Iterator[bytes]:
        """Yield `length` bytes from `start`."""
        end = start + length
        while start < end:
            check()
            block = os.pread(self._file.fileno(), min(READ_BYTES, end - start), start)
            if not block:
                raise OSError(0, "the spooled archive has become shorter")
            start += len(block)
            yield block
