"""Bundles as upgrades: an archive of one folder with an interpreter, a server and all it needs.

    sandkeeper-<version>-linux-<machine>.tar.zst   or .tar.gz
        sandkeeper/bundle.json                     first: name, version, machine, python
        sandkeeper/libexec/pythonX.Y, …            `python` names it

`scripts/bundle` makes them. Unlike a wheel it brings its own Python, so nothing is installed, and
what the running version was installed from does not matter.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from packaging.version import InvalidVersion, Version

from sandkeeper.errors import Forbidden, Unprocessable
from sandkeeper.files.tar.zstd import ZstdFault, unpacking
from sandkeeper.upgrade.source import ABOUT, PROJECT

__all__ = ["bundle_inside", "unpack_bundle", "version_of_bundle"]

ABOUT_BYTES = 64 << 10
UNPACKED_BYTES = 1 << 30
_NAME = re.compile(rf"{PROJECT}-([^-]+)-linux-([a-z0-9_]+)\.tar\.(zst|gz)")
_NO_ARCHIVE = (tarfile.TarError, ZstdFault, EOFError, ValueError, OverflowError)


class _About(msgspec.Struct):
    """What a bundle says of itself; `python` is the interpreter, below its folder."""

    name: str
    version: str
    machine: str
    python: str


def version_of_bundle(name: str) -> Version | None:
    """Return the version of one of our bundles that fits this machine, None for other names."""
    found = _NAME.fullmatch(name)
    if found is None or found[2] != os.uname().machine:
        return None
    try:
        return Version(found[1])
    except InvalidVersion:
        return None


def bundle_inside(path: Path) -> str:
    """Return the version a bundle says it has; raises Forbidden when it is none of ours."""
    try:
        with _opened(path) as archive:
            about = _about(archive)
        version = Version(about.version)
    except (*_NO_ARCHIVE, OSError, InvalidVersion) as error:
        raise Forbidden(f"it is not a bundle: {error}") from None
    if (about.name, about.machine) != (PROJECT, os.uname().machine):
        raise Forbidden(f"it is a bundle of {about.name} for {about.machine}")
    if version != version_of_bundle(path.name):
        raise Forbidden(f"its name does not tell its version, which is {version}")
    return str(version)


def unpack_bundle(path: Path, folder: Path) -> Path:
    """Unpack a bundle as `folder`; returns its interpreter. Raises Unprocessable, OSError."""
    if not hasattr(tarfile, "data_filter"):
        raise Unprocessable("it cannot be unpacked: Python 3.11.4 or later is needed")
    try:
        with _opened(path) as archive:
            about = _about(archive)
            archive.extractall(folder, members=_members(archive), filter="data")
        (folder / ABOUT).write_bytes(msgspec.json.encode(about))
    except _NO_ARCHIVE as error:
        raise Unprocessable(f"it cannot be unpacked: {error}") from None
    python = folder / about.python
    if not python.is_file() or not python.resolve().is_relative_to(folder.resolve()):
        raise Unprocessable(f"it has no {about.python}")
    return python


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    packed = path.name.endswith(".zst")
    mode: Literal["r|", "r|gz"] = "r|" if packed else "r|gz"
    with (
        open(path, "rb") as file,
        tarfile.open(fileobj=unpacking(file) if packed else file, mode=mode) as archive,
    ):
        yield archive


def _about(archive: tarfile.TarFile) -> _About:
    """Read the first file; raises ValueError when it does not tell what this is."""
    member = archive.next()
    while member is not None and member.isdir():
        member = archive.next()
    if member is None or member.name != f"{PROJECT}/{ABOUT}" or member.size > ABOUT_BYTES:
        raise ValueError(f"it does not begin with {ABOUT}")
    file = archive.extractfile(member)
    return msgspec.json.decode(file.read() if file else b"", type=_About)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Give what follows, without the folder in which all of it lies."""
    size = 0
    while (member := archive.next()) is not None:
        top, _, inside = member.name.partition("/")
        size += member.size
        if top != PROJECT or size > UNPACKED_BYTES:
            raise ValueError("it unpacks to more than a bundle has")
        if inside:
            yield member.replace(name=inside, deep=False)
