"""Where the parts of uploads lie: one private directory, one directory in it for each session.

    <root>/<uuid>/metadata.json       the session, replaced as a whole
    <root>/<uuid>/part-<n>-<md5>      a part; its name says which content the metadata means
    <root>/<uuid>/content             what was sent from its beginning on; its size is the offset

A part is renamed to its name before the metadata mentions it, and an older version of it is
removed afterwards: whenever the server is killed, what the metadata names is there and whole.
Blocking; run as the server, since the directory is nobody else's.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.files.changing.writing import write_all
from sandkeeper.files.work import FileWork
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.paths.statefiles import Damaged, SetAside, decoded, read_plain
from sandkeeper.linux.paths.trusted import open_trusted_folder
from sandkeeper.patterns import pattern

__all__ = ["PartSink", "Session", "Store", "UploadedPart"]

_PART = pattern(r"part-([1-9]\d{0,4})-([0-9a-f]{32})")
_OURS = pattern(r"content|part-[1-9]\d{0,4}-[0-9a-f]{32}|(part|metadata)-[0-9a-f]{16}\.tmp")
CONTENT = "content"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def _is_alone(folder: int) -> bool:
    """Say whether no other server holds the directory; we hold it for ourselves then."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class UploadedPart(msgspec.Struct, frozen=True):
    """A part that is there; the etag is the MD5 of its bytes in hexadecimal."""

    partNumber: int
    etag: str
    size: int
    uploadedAt: str


class Session(msgspec.Struct):
    """An upload; `permissions` is the mode as a number, `parts` is replaced, never changed.

    `contentSize` is how much is here of one that is sent from its beginning on.
    """

    uploadId: str
    path: str
    permissions: int
    initiatedAt: str
    parts: dict[str, UploadedPart] = {}
    contentSize: int | msgspec.UnsetType = msgspec.UNSET

    def copy(self) -> "Session":
        """Return it as it is now."""
        return Session(*(getattr(self, name) for name in Session.__struct_fields__))


class _Stored(Session):
    """A session on the disk; `pathBytes` is the path in hexadecimal where it is not UTF-8."""

    pathBytes: str = ""


class Store:
    """The directory of all sessions; raises OSError.

    The directories are ours, so that nobody reaches what is in them; the files are given away by
    `work`, for their content is the caller's choice, and filled as the workload's user, who may
    have less room than we.
    """

    def __init__(self, root: Path, aside: SetAside, work: FileWork) -> None:
        self._root = root
        self.aside = aside
        self.give = work.give
        self.acting = work.acting
        self._held: OwnedFd | None = None

    def open(self) -> list[tuple[Session, float]]:
        """Make the directory private and read what is in it, with the time each was changed at.

        Whatever is not a session of ours is left alone; one that is damaged is set aside. Parts
        that are not mentioned are removed, unless another server uses the directory, too: then
        they may be arriving there. Raises UntrustedFile where somebody else could put another
        directory in the place of ours.
        """
        above = open_trusted_folder(self._root.parent, make=0o755)
        try:
            with suppress(FileExistsError):
                os.mkdir(self._root.name, 0o700, dir_fd=above)
            held = OwnedFd(os.open(self._root.name, _DIRECTORY, dir_fd=above))
        finally:
            os.close(above)
        try:
            if os.fstat(held.number).st_uid != os.geteuid():
                raise PermissionError(f"{self._root} belongs to somebody else")
            os.fchmod(held.number, 0o700)
            alone = _is_alone(held.number)
            names = sorted(os.listdir(self._root))
            found = [session for name in names if (session := self._load(name, alone))]
            fcntl.flock(held.number, fcntl.LOCK_SH)
        except BaseException:
            held.close()
            raise
        self._held = held
        return found

    def close(self) -> None:
        """Let others tidy up."""
        if self._held is not None:
            self._held.close()

    def _load(self, name: str, tidy: bool) -> tuple[Session, float] | None:
        folder = self._root / name
        try:
            if str(uuid.UUID(name)) != name:
                return None
        except ValueError:
            return None
        if tidy:
            self._clear(str(folder))
        try:
            session, changed = _read(folder)
        except (OSError, Damaged) as error:
            if tidy and os.path.lexists(folder):
                self.aside.put(folder, error)
            return None
        broken = {n for n, part in session.parts.items() if not self._is_whole(session, part)}
        if tidy:
            for number in broken:
                path = Path(self.part_path(session, session.parts[number]))
                self.aside.put(path, "it is not whole")
        session.parts = {n: part for n, part in session.parts.items() if n not in broken}
        if tidy:
            self._tidy(session)
        session.contentSize = msgspec.UNSET
        with suppress(OSError):
            found = os.lstat(self.content_path(session))
            session.contentSize, changed = found.st_size, max(changed, found.st_mtime)
        return session.copy(), changed

    def _is_whole(self, session: Session, part: UploadedPart) -> bool:
        try:
            info = os.lstat(self.part_path(session, part))
            if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid():
                self._give_away(self.part_path(session, part))  # an earlier version kept it
        except OSError:
            return False
        return stat.S_ISREG(info.st_mode) and info.st_size == part.size

    def _give_away(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.give(fd)
        finally:
            os.close(fd)

    def _tidy(self, session: Session) -> None:
        folder = os.path.join(self._root, session.uploadId)
        kept = {os.path.basename(self.part_path(session, part)) for part in session.parts.values()}
        for name in os.listdir(folder):
            if name not in {"metadata.json", CONTENT, *kept}:
                with suppress(OSError):
                    os.unlink(os.path.join(folder, name))

    def create(self, path: str, permissions: int) -> Session:
        """Begin a session."""
        now = rfc3339(time.time_ns())
        session = Session(str(uuid.uuid4()), path, permissions, now)
        os.mkdir(os.path.join(self._root, session.uploadId), 0o700)
        self.save(session)
        return session

    def save(self, session: Session) -> None:
        """Replace the metadata."""
        folder = os.path.join(self._root, session.uploadId)
        temporary = os.path.join(folder, f"metadata-{secrets.token_hex(8)}.tmp")
        fd = os.open(temporary, _NEW, 0o600)
        try:
            with open(fd, "wb") as file:
                self.give(fd)
                file.write(_encode(session))
            os.rename(temporary, os.path.join(folder, "metadata.json"))
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def part_path(self, session: Session, part: UploadedPart) -> str:
        """Return where a part lies."""
        name = f"part-{part.partNumber}-{part.etag}"
        if _PART.fullmatch(name) is None:
            raise FileNotFoundError(f"no part has the name {name!r}")
        return os.path.join(self._root, session.uploadId, name)

    def content_path(self, session: Session) -> str:
        """Return where what was sent from its beginning on lies."""
        return os.path.join(self._root, session.uploadId, CONTENT)

    def content_size(self, session: Session) -> int:
        """Return how much of it is here."""
        try:
            return os.lstat(self.content_path(session)).st_size
        except FileNotFoundError:
            return 0

    def remove(self, session: Session) -> None:
        """Remove a session with its parts; what a kill leaves of it is no session any more."""
        folder = os.path.join(self._root, session.uploadId)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, "metadata.json"))
        shutil.rmtree(folder)

    def _clear(self, folder: str) -> None:
        """Remove what a kill left of a session that was being made or removed."""
        if os.path.lexists(os.path.join(folder, "metadata.json")):
            return
        with suppress(OSError):
            for name in os.listdir(folder):
                if _OURS.fullmatch(name):
                    os.unlink(os.path.join(folder, name))
            os.rmdir(folder)


def _read(folder: Path) -> tuple[_Stored, float]:
    """Return a session and when it was changed; raises OSError or Damaged."""
    path = folder / "metadata.json"
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise Damaged("it is not a folder")
    session = decoded(read_plain(path), _Stored)
    try:
        if session.pathBytes:
            session.path = os.fsdecode(bytes.fromhex(session.pathBytes))
        os.fsencode(session.path)
        msgspec.json.encode(session.initiatedAt)
    except ValueError:
        raise Damaged("a text of it is no text") from None
    sound = (
        session.uploadId == folder.name
        and "\0" not in session.path
        and 0 <= session.permissions <= 0o7777
        and all(
            number == str(part.partNumber)
            and _PART.fullmatch(f"part-{number}-{part.etag}")
            and 0 <= part.size < 1 << 62
            and part.uploadedAt.isascii()
            for number, part in session.parts.items()
        )
    )
    if not sound:
        raise Damaged("a value of it cannot be true")
    return session, os.lstat(path).st_mtime


def _encode(session: Session) -> bytes:
    try:
        return msgspec.json.encode(session)
    except UnicodeEncodeError:
        raw = os.fsencode(session.path)
        readable = raw.decode("utf-8", "replace")
        fields = session.uploadId, readable, session.permissions, session.initiatedAt, session.parts
        return msgspec.json.encode(_Stored(*fields, session.contentSize, pathBytes=raw.hex()))


class PartSink:
    """The sink of one part's upload: a temporary of its own, so that nothing interleaves."""

    def __init__(self, store: Store, session: Session, number: int) -> None:
        self._store = store
        self._session = session
        self._number = number
        self._fd = -1
        self._temporary = ""
        self._digest = hashlib.md5(usedforsecurity=False)
        self._size = 0

    def __call__(self) -> "PartSink":
        """Open the temporary."""
        folder = os.path.dirname(self._store.part_path(self._session, self._part("0" * 32)))
        self._temporary = os.path.join(folder, f"part-{secrets.token_hex(8)}.tmp")
        self._fd = os.open(self._temporary, _NEW, 0o600)
        self._store.give(self._fd)
        return self

    def write_pieces(self, pieces: list[bytes]) -> None:
        """Append and hash."""
        for piece in pieces:
            self._digest.update(piece)
            self._size += len(piece)
        with self._store.acting():
            for piece in pieces:
                write_all(self._fd, piece)

    def commit(self) -> UploadedPart:
        """Give the part its name and have the metadata mention it."""
        part = self._part(self._digest.hexdigest())
        path = self._store.part_path(self._session, part)
        os.rename(self._temporary, path)
        self._temporary = ""
        before = self._session.parts
        older = before.get(str(self._number))
        self._session.parts = {**before, str(self._number): part}
        try:
            self._store.save(self._session)
        except OSError:
            self._session.parts = before
            if older is None or older.etag != part.etag:
                os.unlink(path)
            raise
        if older is not None and older.etag != part.etag:
            with suppress(OSError):
                os.unlink(self._store.part_path(self._session, older))
        return part

    def discard(self) -> None:
        """Drop what was not committed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary:
            with suppress(OSError):  # with an aborted session its directory is gone already
                os.unlink(self._temporary)
            self._temporary = ""

    def _part(self, etag: str) -> UploadedPart:
        return UploadedPart(self._number, etag, self._size, rfc3339(time.time_ns()))
