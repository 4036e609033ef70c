"""The members of tar streams, as every writer makes them and whoever means harm.

The library reads all formats; where it holds what a stream says it holds, or reads what writers
of GNU's formats mean otherwise, it is mended here.
"""

import copy
import tarfile
from typing import Any, Self, cast

from sandkeeper.numerals import natural

__all__ = ["HEADER_BYTES", "LABEL", "BoundedMember", "Metered", "spans_in", "stored_in"]

HEADER_BYTES = 1 << 20
BETWEEN_BYTES = 2 << 20
"""How much may be read from one file's data to the next: headers, maps of holes, read-ahead."""

DUMPDIR, LABEL = b"D", b"V"
"""Kinds of GNU tar's own: a directory with a list of what is in it, the name of a volume."""

SPARSE = "GNU.sparse."
_NAME, _MAGIC = slice(0, 100), slice(257, 265)
_GNU_MAGIC = b"ustar  \0"


class Metered:
    """A reader that gives up when much is read and nothing comes of it: tarfile holds headers."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._left = BETWEEN_BYTES

    def renew(self) -> None:
        """Say that something came of it."""
        self._left = BETWEEN_BYTES

    def read(self, size: int) -> bytes:
        """Read; raises tarfile.ReadError when the allowance is used up."""
        data: bytes = self._inner.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError("too many headers")
        return data


class BoundedMember(tarfile.TarInfo):
    """A member as every writer makes it, read more closely than the library does.

    Extended headers are read only if they are small: they are held whole.
    """

    _begins = 0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header; GNU's own has times where POSIX's has the beginning of a long name."""
        member = super().frombuf(buf, encoding, errors)
        if buf[_MAGIC] == _GNU_MAGIC:
            name = bytes(buf[_NAME]).partition(b"\0")[0].decode(encoding, errors)
            member.name = name.rstrip("/") if member.isdir() else name
        return member

    def isdir(self) -> bool:
        """Say whether it is a directory, as a list of what is in it (`tar -g`) is as well."""
        return self.type in {tarfile.DIRTYPE, DUMPDIR}

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if not self.isreg() and self.size > HEADER_BYTES and self.type not in _PLAIN_TYPES:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_builtin(self, archive: tarfile.TarFile) -> Any:
        self._begins = archive.fileobj.tell()
        return super()._proc_builtin(archive)  # type: ignore[misc]

    def _proc_pax(self, archive: tarfile.TarFile) -> Any:
        """Read an extended header; of a file with holes its `size` is what is stored."""
        following = super()._proc_pax(archive)  # type: ignore[misc]
        stored = natural(following.pax_headers.get("size", ""))
        if following.sparse is not None and following._begins and stored is not None:
            end = following._begins + following._block(stored)
            archive.offset = end
        return following

    def _apply_pax_info(self, pax_headers: dict[str, str], encoding: str, errors: str) -> None:
        # Writers give a file with holes a name and a size for readers who know of none besides.
        own = {name: value for name, value in pax_headers.items() if name.startswith(SPARSE)}
        rest = {name: value for name, value in pax_headers.items() if name not in own}
        super()._apply_pax_info({**rest, **own}, encoding, errors)  # type: ignore[misc]


def spans_in(member: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Return where a member's stored bytes go, as (offset, length); the rest of it are holes.

    Spans of no bytes mean nothing: GNU's old format fills its map up with them, and the others
    mark the end by one. Raises tarfile.ReadError for a map that no writer makes: tarfile's own
    reader turns some of them into a loop without end, and any hole into NULs on the disk.
    """
    if member.size < 0:
        raise tarfile.ReadError(f"{member.name!r} has a negative size")
    if member.sparse is None:
        return [(0, member.size)]
    spans = [span for span in cast("list[tuple[int, int]]", member.sparse) if span[1]]
    end = 0
    for offset, length in spans:
        if offset < end or length < 0 or offset + length > member.size:
            raise tarfile.ReadError(f"{member.name!r} has a broken map of its holes")
        end = offset + length
    return spans


def stored_in(member: tarfile.TarInfo, spans: list[tuple[int, int]]) -> tarfile.TarInfo:
    """Return the member as it lies in the archive, without holes."""
    plain = copy.copy(member)
    plain.sparse = None
    plain.size = sum(length for _, length in spans)
    return plain


_PLAIN_TYPES = frozenset(
    {
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        DUMPDIR,
    }
)
