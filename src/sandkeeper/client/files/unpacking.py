"""A tree that comes as a tar stream, unpacked below one folder and nowhere else.

What a sandbox says is somebody else's word. Every name is walked part by part from the open folder,
and no link is followed on the way, whoever made it: so a link may lead anywhere, as it does there,
and nothing is ever written through it. (`tarfile`'s own filters judge a name before it is used, and
could be led out more than once.)
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from sandkeeper.client.failures import ClientError
from sandkeeper.client.output import complain

__all__ = ["unpack"]

BLOCK_BYTES = 1 << 20
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
SENDS = 0o777
"""Set-user-ID bits are for the sandbox alone."""


class _Stream:
    """Blocks as a file to read from."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def read(self, most: int) -> bytes:
        parts, count = [self._rest], len(self._rest)
        while count < most and (block := next(self._blocks, b"")):
            parts.append(block)
            count += len(block)
        whole = b"".join(parts)
        taken, self._rest = whole[:most], whole[most:]
        return taken


def unpack(blocks: Iterator[bytes], folder: Path) -> None:
    """Unpack a tar stream into a folder that is there; modes, times and links are kept.

    Raises ClientError for a stream that is none, a name that leads out, and what cannot be written.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _Unpacking(fd).take(cast("Any", _Stream(blocks)))
    except tarfile.TarError as error:
        raise ClientError(f"{folder}: {error}") from None
    except OSError as error:
        raise ClientError(f"{folder}: {_said(error)}") from None
    finally:
        os.close(fd)


def _said(error: OSError) -> str:
    what = str(error.strerror or error).lower()
    return f"{os.fsdecode(error.filename)}: {what}" if error.filename else what


def _parts(name: str) -> list[str]:
    """Return the names on the way; raises ClientError for a way that leads out."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts or name.startswith("/") or "\0" in name:
        raise ClientError(f"the answer has a name that leads outside: {name!r}")
    return parts


class _Unpacking:
    """One stream into one open folder."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._folders: dict[tuple[str, ...], tarfile.TarInfo] = {}
        self._left_out = 0

    def take(self, stream: Any) -> None:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK_BYTES) as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                parts = _parts(member.name)
                if member.isdir():
                    with self._entered(parts):
                        self._folders[tuple(parts)] = member
                elif parts:
                    with self._entered(parts[:-1]) as above:
                        self._made(archive, member, above, parts[-1])
        # Last, or what is in a folder that nobody may write to could not be unpacked.
        for place, member in sorted(self._folders.items(), reverse=True):
            with self._entered(place) as fd:
                _finish(fd, member)
        if self._left_out:
            complain(f"{self._left_out} left out: devices and FIFOs stay on their machine")

    @contextmanager
    def _entered(self, parts: Iterable[str]) -> Iterator[int]:
        """Give the open folder, made where it is missing."""
        fd = os.dup(self._top)
        try:
            for part in parts:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=fd)
                below = os.open(part, FOLDER, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _made(self, archive: tarfile.TarFile, member: tarfile.TarInfo, fd: int, name: str) -> None:
        if not (member.isreg() or member.issym() or member.islnk()):
            self._left_out += 1
            return
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                os.unlink(name, dir_fd=fd)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=fd)
        elif member.islnk():
            *above, target = _parts(member.linkname) or [""]
            with self._entered(above) as source:
                os.link(target, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        else:
            with open(os.open(name, NEW_FILE, 0o600, dir_fd=fd), "wb") as file:
                shutil.copyfileobj(cast("Any", archive.extractfile(member)), file, BLOCK_BYTES)
                file.flush()
                _finish(file.fileno(), member)


def _finish(fd: int, member: tarfile.TarInfo) -> None:
    os.fchmod(fd, member.mode & SENDS)
    with suppress(OverflowError, OSError):  # a time that no file system has
        os.utime(fd, (member.mtime, member.mtime))
