"""What is sent of an upload from its beginning on: one file that grows, in any number of requests.

No digest is made of what arrives: that costs a processor more than all the rest. What is here is
told by its size, and by a digest to whoever asks (`digest`), who then knows that it is the same.
"""

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress

from sandkeeper.files.changing import holes
from sandkeeper.files.changing.replace import Draft
from sandkeeper.files.changing.writing import write_all
from sandkeeper.files.uploads.store import Session, Store
from sandkeeper.files.work import Cancel
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.paths import useros as os

__all__ = ["ContentSink", "digest", "fill"]

READ_BYTES = 1 << 20
_MADE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class ContentSink:
    """The sink of one request's bytes: they count as they are written, whatever comes after."""

    def __init__(self, store: Store, session: Session, offset: int) -> None:
        self._store = store
        self._session = session
        self._offset = offset
        self._fd = -1

    def __call__(self) -> "ContentSink":
        """Open the file, and make it."""
        path = self._store.content_path(self._session)
        self._fd = os.open(path, _MADE, 0o600)
        if os.fstat(self._fd).st_nlink > 1:  # a kill came between its becoming a file and our end
            os.close(self._fd)
            self._fd = -1
            self._fd = self._copied(path)
        self._store.give(self._fd)
        os.lseek(self._fd, self._offset, os.SEEK_SET)
        return self

    def _copied(self, path: str) -> int:
        """Put a copy in the place of the file, which is somebody else's now; returns it, open."""
        temporary = os.path.join(os.path.dirname(path), f"part-{secrets.token_hex(8)}.tmp")
        source = _opened(self._store, self._session)
        made = OwnedFd(os.open(temporary, _MADE | os.O_EXCL, 0o600))
        try:
            self._store.give(made.number)
            with self._store.acting():
                holes.copy(source.number, made.number, 0)
            os.rename(temporary, path)
            return os.dup(made.number)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            source.close()
            made.close()

    def write_pieces(self, pieces: list[bytes]) -> None:
        """Append."""
        try:
            with self._store.acting():  # room that only root may fill is not the caller's
                for piece in pieces:
                    write_all(self._fd, piece)
        finally:
            self._session.contentSize = os.lseek(self._fd, 0, os.SEEK_CUR)

    def commit(self) -> int:
        """Return how much is here now."""
        self._session.contentSize = size = os.lseek(self._fd, 0, os.SEEK_CUR)
        return size

    def discard(self) -> None:
        """Let go of the file; what was written stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _opened(store: Store, session: Session) -> OwnedFd:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    return OwnedFd(os.open(store.content_path(session), flags))


def digest(store: Store, session: Session, size: int, cancel: Cancel) -> str:
    """Return the SHA-256 of the first `size` bytes in hexadecimal; raises OSError."""
    found, at = hashlib.sha256(), 0
    if not size:
        return found.hexdigest()
    fd = _opened(store, session)
    try:
        while block := os.pread(fd.number, min(READ_BYTES, size - at), at):
            cancel.check()
            found.update(block)
            at += len(block)
    finally:
        fd.close()
    return found.hexdigest()


def fill(draft: Draft, store: Store, session: Session, check: Callable[[], None]) -> None:
    """Have it become the content of a draft: by a link where that is the same, else by a copy.

    Raises OSError.
    """
    fd = _opened(store, session)
    try:
        with store.acting():
            above = os.path.dirname(draft.path)
            folder = OwnedFd(os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            adopted = draft.adopt(store.content_path(session), fd.number, folder.number)
        finally:
            folder.close()
        if not adopted:
            with store.acting():
                draft.copy_from(fd.number, check)
    finally:
        fd.close()
