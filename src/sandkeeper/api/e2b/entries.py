"""An entry of the file system as E2B's clients read it."""

import posixpath
import stat
from typing import Any

from sandkeeper.api.edge.respond import utf8
from sandkeeper.files.details import Detail
from sandkeeper.files.entries import Owners
from sandkeeper.linux.clocks import rfc3339

__all__ = ["METADATA", "entry_of", "metadata_of"]

METADATA = "e2b."
"""What the names of metadata begin with, among a file's extended attributes of its user."""

TYPES = {stat.S_IFREG: "FILE_TYPE_FILE", stat.S_IFDIR: "FILE_TYPE_DIRECTORY"}

_LETTERS = {
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "L",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "S",
    stat.S_IFBLK: "D",
    stat.S_IFCHR: "Dc",
}
_SPECIAL = ((stat.S_ISUID, "u"), (stat.S_ISGID, "g"), (stat.S_ISVTX, "t"))


def _permissions(mode: int) -> str:
    """Write a mode as Go does (io/fs.FileMode.String): `-rw-r--r--`, `dtrwxrwxrwx`."""
    letters = _LETTERS.get(stat.S_IFMT(mode), "")
    letters += "".join(letter for bit, letter in _SPECIAL if mode & bit)
    bits = "".join(
        letter if mode & (0o400 >> place) else "-" for place, letter in enumerate("rwxrwxrwx")
    )
    return (letters or "-") + bits


def metadata_of(found: Detail) -> dict[str, str]:
    """Return the metadata of a file; what is no text is left out."""
    made: dict[str, str] = {}
    for name, value in found.attributes.items():
        if name.startswith(METADATA):
            try:
                made[name.removeprefix(METADATA)] = value.decode()
            except UnicodeDecodeError:
                continue
    return made


def entry_of(found: Detail, owners: Owners) -> dict[str, Any]:
    """Return the wire's EntryInfo; values that are zero are left out, as protobuf does."""
    info = found.info
    kind = 0 if found.reached is None else stat.S_IFMT(found.reached)
    made: dict[str, Any] = {
        "name": utf8(posixpath.basename(found.path) or "/"),
        "path": utf8(found.path),
        "permissions": _permissions(info.st_mode),
        "owner": owners.user(info.st_uid),
        "group": owners.group(info.st_gid),
        "modifiedTime": _utc(info.st_mtime_ns),
    }
    if found.is_link and found.reached is None:
        made["type"] = "FILE_TYPE_SYMLINK"
    elif kind in TYPES:
        made["type"] = TYPES[kind]
    if info.st_size:
        made["size"] = str(info.st_size)
    if low := info.st_mode & 0o777:
        made["mode"] = low
    if found.is_link:
        made["isSymlink"] = True
        made["symlinkTarget"] = utf8(found.target)
    if metadata := metadata_of(found):
        made["metadata"] = metadata
    return made


def _utc(nanoseconds: int) -> str:
    """Write a time as protobuf's JSON does."""
    return rfc3339(nanoseconds, local=False)
