"""Applying an archive to the machine: the blocking part of a restore.

Until the first change nothing is lost by a failure; after it the machine is neither the old one
nor the archived one. `Restored.written` tells which.
"""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import IO

import msgspec

from sandkeeper.archive.baseline import FOLDER, MARKER
from sandkeeper.archive.documents import ManifestHead, Paths, read_head, read_processes
from sandkeeper.archive.export import MANIFEST, PROCESSES, VERSION
from sandkeeper.archive.job import Clock, Restored
from sandkeeper.archive.snapshot import LeftOut
from sandkeeper.archive.transfer import Storage, is_url
from sandkeeper.errors import BadInput, Internal, NotFound
from sandkeeper.files.tar.compression import FAULTS, decompressed
from sandkeeper.files.tar.members import BoundedMember
from sandkeeper.files.tar.unpacking import (
    Temporary,
    UnsafeMember,
    remove_member,
    unpack,
)
from sandkeeper.log.lines import timestamp
from sandkeeper.processes.spec import SavedProcess
from sandkeeper.settings import IMPORT_URL

__all__ = ["check", "restore"]

GATHER_BYTES = 256 << 10
MANIFEST_BYTES = 256 << 20
BROKEN = (tarfile.TarError, *FAULTS, msgspec.DecodeError)
"""What the library of each format raises for bytes that are not of it."""
UNREADABLE = (ValueError, RecursionError, msgspec.DecodeError)


class _Reader:
    """A stream of blocks as a file that is read from front to end."""

    def __init__(self, blocks: Iterator[bytes], progress: Restored) -> None:
        self._blocks = blocks
        self._rest = b""
        self._progress = progress

    def peek(self, size: int) -> bytes:
        """Return the first bytes without taking them."""
        while len(self._rest) < size and (block := self._next()):
            self._rest += block
        return self._rest[:size]

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, all there are before the end."""
        parts, held = [self._rest], len(self._rest)
        while (size < 0 or held < size) and (block := self._next()):
            parts.append(block)
            held += len(block)
        data = b"".join(parts)
        end = held if size < 0 else size
        self._rest = data[end:]
        return data[:end]

    def _next(self) -> bytes:
        block = next(self._blocks, b"")
        self._progress.downloaded += len(block)
        return block


def check(path: str) -> None:
    """See that a file is an archive, by its beginning; raises BadInput, NotFound."""
    try:
        blocks = _of_file(path, Restored())
        with (
            tarfile.open(
                fileobj=decompressed(_Reader(blocks, Restored())), mode="r|", tarinfo=BoundedMember
            ) as archive,
            closing(Paths()) as deleted,
        ):
            _head(archive, deleted)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except (OSError, *BROKEN, Internal) as error:
        raise BadInput(f"{path} is no archive that can be applied: {error}") from None


def _of_file(path: str, progress: Restored) -> Iterator[bytes]:
    """Yield what is in a file; raises OSError at once for what is none."""
    # A FIFO would have us wait for whoever writes.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    file = open(fd, "rb", buffering=0)  # noqa: SIM115 - closed by the generator
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        file.close()
        raise OSError("it is no regular file")
    progress.size = info.st_size

    def blocks() -> Iterator[bytes]:
        with file:
            while block := file.read(GATHER_BYTES):
                yield block

    return blocks()


def restore(
    source: str,
    root: str,
    left_out: LeftOut,
    temporary: Temporary,
    clock: Clock,
    retries: int,
    progress: Restored,
) -> None:
    """Download and apply; `progress` is filled on the way. Raises BadInput, Internal,
    Stopped.

    `source` is a URL, or the full path of a file. What is `left_out` belongs to the server and
    stays as it is, whatever the archive says.
    """
    storage, deleted = Storage(clock, retries), Paths()
    try:
        if source.startswith("/"):
            blocks = _of_file(source, progress)
        elif not is_url(source):  # no attempt would change that
            raise BadInput(f"{IMPORT_URL} is no http or https URL")
        else:
            blocks = storage.download(source, lambda size: setattr(progress, "size", size))
        stream = decompressed(_Reader(blocks, progress))
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=GATHER_BYTES, tarinfo=BoundedMember
        ) as archive:
            head = _head(archive, deleted)
            if head.processes:
                progress.processes = _processes(archive)
            progress.state = "extracting"
            _apply(archive, root, deleted, left_out, temporary, clock.check, progress)
        # The rest of the stream is read, or a checksum at its end would not be looked at.
        while stream.read(GATHER_BYTES):
            clock.check()
        _mark(root, head, progress)
    except UnsafeMember as error:
        raise Internal(f"the archive is refused: {error}") from None
    except BROKEN as error:
        raise Internal(f"the archive is broken: {error}") from None
    except OSError as error:
        raise Internal(f"cannot apply the archive: {error.strerror or error}") from None
    finally:
        deleted.close()
        storage.close()


def _head(archive: tarfile.TarFile, deleted: Paths) -> ManifestHead:
    source = _document(archive, MANIFEST)
    try:
        head = read_head(source, deleted)
    except UNREADABLE as error:
        raise Internal(f"the archive's manifest cannot be read: {error}") from None
    if head.version != VERSION:
        raise Internal(f"the archive has version {head.version}; this server knows {VERSION}")
    return head


def _processes(archive: tarfile.TarFile) -> list[SavedProcess]:
    source = _document(archive, PROCESSES)
    try:
        return read_processes(source)
    except UNREADABLE as error:
        raise Internal(f"the archive's processes cannot be read: {error}") from None


def _document(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.next()
    if member is None or member.name != name or not member.isreg() or member.size > MANIFEST_BYTES:
        raise Internal(f"the archive has no {name} where it must be")
    source = archive.extractfile(member)
    assert source is not None  # that of a plain file
    return source


def _apply(
    archive: tarfile.TarFile,
    root: str,
    deleted: Paths,
    left_out: LeftOut,
    temporary: Temporary,
    check: Callable[[], None],
    progress: Restored,
) -> None:
    progress.written = True
    for path in deleted:
        check()
        if not _spared(left_out, path.strip("/"), False) and remove_member(root, path):
            progress.deleted += 1

    progress.restored = unpack(
        archive,
        root,
        owners=os.geteuid() == 0,
        temporary=temporary,
        check=check,
        trusted=True,
        spared=partial(_spared, left_out),
    )


def _spared(left_out: LeftOut, path: str, is_directory: bool) -> bool:
    """Say whether a path is the server's; raises UnsafeMember if what is below it would go."""
    if left_out.covers(path):
        return True
    if not is_directory and left_out.holds(path):
        raise UnsafeMember(f"{path!r} holds what belongs to the server")
    return False


def _mark(root: str, head: ManifestHead, progress: Restored) -> None:
    """Note on the file system itself that it is the archived one from now on."""
    record = {
        "version": VERSION,
        "restoredAt": timestamp(),
        "createdAt": head.created_at,
        "restored": progress.restored,
        "deleted": progress.deleted,
    }
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=top)
        # A link of that name leads elsewhere.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(FOLDER, flags, dir_fd=top)
    finally:
        os.close(top)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        name = os.path.basename(MARKER)
        with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.close(folder)
