"""Archives whose bytes depend on nothing but what is in them (reproducible-builds.org).

Members are in the order of their names, belong to root, and all have one time; neither gzip nor
zstd is told a name or a time. Zstandard is in one thread, for its blocks depend on how many.
"""

import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["add", "gz", "note_checksum", "pack", "source_date", "zst"]

ZSTD_LEVEL = 12


def source_date(root: Path) -> int:
    """Return SOURCE_DATE_EPOCH, or without it the time of the last commit."""
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not stated:
        command = ["git", "-C", root, "log", "-1", "--format=%ct"]
        stated = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return int(stated)


def pack(folder: Path, name: str, moment: int, first: tuple[str, ...] = ()) -> bytes:
    """Return a tar archive of a folder, below `name`; the files named `first` lead it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        paths = [folder, *_below(folder)]
        order = {folder / one: index for index, one in enumerate(first)}
        for path in sorted(paths, key=lambda one: (order.get(one, len(order)), one)):
            inside = "/".join([name, *path.relative_to(folder).parts])
            add(archive, path, inside, moment)
    return buffer.getvalue()


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)


def add(archive: tarfile.TarFile, path: Path, name: str, moment: int) -> None:
    """Add one file, folder or link; of its mode counts whether it can be executed."""
    member = tarfile.TarInfo(name)
    member.uname = member.gname = "root"
    member.mtime = moment
    if path.is_symlink():
        member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
    elif path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    else:
        told = path.stat()
        member.size = told.st_size
        member.mode = 0o755 if told.st_mode & stat.S_IXUSR else 0o644
        with path.open("rb") as file:
            archive.addfile(member, file)
        return
    archive.addfile(member)


def zst(data: bytes) -> bytes:
    """Compress with Zstandard, with a checksum inside."""
    options = {
        zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    return zstd.compress(data, options=options)


def gz(data: bytes) -> bytes:
    """Compress with gzip."""
    buffer = io.BytesIO()
    with _gzip_writer(buffer) as file:
        file.write(data)
    return buffer.getvalue()


def _gzip_writer(buffer: IO[bytes]) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=buffer, mtime=0)


def note_checksum(path: Path) -> str:
    """Write <path>.sha256 as sha256sum(1) does, and return the checksum."""
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{checksum}  {path.name}\n")
    return checksum
