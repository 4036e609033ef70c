"""Files of our own: read without trust in what they hold or in their kind, and replaced whole.

    open_plain          a descriptor of a regular file, never of a FIFO that would keep us waiting
    read_plain          its last bytes
    read_own            a small file whole, if nobody else can have written it
    write_atomically    a new file in the place of the old one
    decoded             JSON of a given shape; one error whatever the bytes are
    SetAside            where broken things go: out of the way, never thrown away unread

What steers the server is opened by `linux.paths.trusted`, which judges the way to it as well.

A power cut, a bad block or somebody's hand may leave anything in the state folder. What reads it
here gives a value or raises `Damaged` (or OSError, where the file cannot be read), nothing else.
"""

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

__all__ = [
    "DAMAGED",
    "LAST_SECOND",
    "Damaged",
    "SetAside",
    "UntrustedFile",
    "decoded",
    "is_moment",
    "keep_kind",
    "make_folder",
    "make_private_folder",
    "open_plain",
    "read_own",
    "read_plain",
    "write_atomically",
]

DAMAGED = "damaged"
"""The folder below the state where broken things lie."""

KEPT = 64
KEPT_BYTES = 64 << 20
READ_BYTES = 64 << 20
OWN_BYTES = 1 << 20
LAST_SECOND = 253_402_128_000
"""Seconds since the epoch, two days before the year 10000: later dates cannot be written."""

T = TypeVar("T")


class Damaged(Exception):
    """What was read is not what we wrote."""


class UntrustedFile(Exception):
    """The file is a link, not regular, too large, or somebody else could have written it."""


def open_plain(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file; raises OSError, EINVAL for what is none (a FIFO, a folder, a link)."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return fd


def read_plain(path: Path | str, most: int = READ_BYTES) -> bytes:
    """Return the last `most` bytes of a regular file; raises OSError."""
    fd = open_plain(path)
    try:
        start = max(0, os.fstat(fd).st_size - most)
        parts = []
        while most > 0 and (part := os.pread(fd, min(most, 1 << 20), start)):
            parts.append(part)
            start += len(part)
            most -= len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def read_own(path: Path) -> bytes | None:
    """Return the content of a file that belongs to us and that only we may write.

    None when there is no such file; raises UntrustedFile, or OSError as read(2) does.
    """
    try:
        fd = open_plain(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UntrustedFile(f"{path}: {error.strerror}") from None
    with open(fd, "rb") as file:
        info = os.fstat(fd)
        if info.st_nlink != 1 or info.st_size > OWN_BYTES:
            raise UntrustedFile(f"{path} is not a plain small file")
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise UntrustedFile(f"{path} could have been written by somebody else")
        return file.read(OWN_BYTES)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by a new file; a link that was planted there is replaced, never followed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def decoded(data: bytes, shape: type[T]) -> T:
    """Return JSON as a value of `shape`; raises Damaged whatever is wrong with it."""
    try:
        return msgspec.json.decode(data, type=shape)
    except RecursionError:
        raise Damaged("it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - the promise is one error for any bytes
        raise Damaged(str(error)) from None


def is_moment(seconds: float) -> bool:
    """Say whether this can be a time in seconds since the epoch, or 0 for none."""
    return 0 <= seconds <= LAST_SECOND


class SetAside:
    """Moves what is broken to `<state>/damaged/<time>-<name>`; all methods block.

    At most `KEPT` things and about `KEPT_BYTES` are kept there, the oldest go first, the newest
    always stays. Each thing that comes or goes is told by one line.
    """

    def __init__(self, state: Path, tell: Callable[[str], None]) -> None:
        self._state = state
        self._folder = state / DAMAGED
        self._tell = tell

    def put(self, path: Path, why: object, *, copy: bool = False) -> bool:
        """Move `path` there, with `copy` leave it as well; says whether it is out of the way.

        Never raises: what cannot be moved is told and left.
        """
        try:
            place = self._place(path)
            if copy:
                place.write_bytes(read_plain(path))
            else:
                _move(path, place)
        except OSError as error:
            self._tell(f"{path} is damaged ({why}) and cannot be set aside: {error.strerror}")
            return False
        self._tell(f"{path} is damaged ({why}); what it holds is kept as {place}")
        with suppress(OSError):
            self._bound()
        return True

    def _place(self, path: Path) -> Path:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:  # something else has the name
            os.rename(self._folder, self._state / f"{DAMAGED}-{_stamp()}")
            self._folder.mkdir(mode=0o700)
        name = os.fsencode(f"{path.parent.name}-{path.name}")[:160].decode("ascii", "replace")
        place = self._folder / f"{_stamp()}-{name.replace(chr(0xFFFD), '_')}"
        number = 1
        while os.path.lexists(place):
            number += 1
            place = place.with_name(f"{_stamp()}-{number}-{name.replace(chr(0xFFFD), '_')}")
        return place

    def _bound(self) -> None:
        found = sorted(os.listdir(self._folder), reverse=True)
        total = 0
        for number, name in enumerate(found):
            path = self._folder / name
            total += _size(path)
            if number and (number >= KEPT or total > KEPT_BYTES):
                self._tell(f"{path} is removed: there are newer things that are damaged")
                _remove(path)


def make_folder(path: Path, aside: SetAside) -> None:
    """Make a folder of our own; whatever else has its name is set aside. Raises OSError."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(_kind(path)):
            aside.put(path, "it is not a folder")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_private_folder(path: Path) -> None:
    """Make a folder that only we may enter; raises OSError, or UntrustedFile if it is not ours."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise UntrustedFile(f"{path} is not a folder of our own")


def keep_kind(path: Path, kind: int, aside: SetAside) -> None:
    """Set aside what has the name of a file (stat.S_IFREG) or socket of ours and is none."""
    with suppress(OSError):
        found = stat.S_IFMT(os.lstat(path).st_mode)
        if found != kind:
            aside.put(path, "it is of another kind than ours")


def _kind(path: Path) -> int:
    """Return the mode of what a path leads to; an operator may have put a link there."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return os.lstat(path).st_mode


def _stamp() -> str:
    # Nanoseconds: the names sort by age.
    seconds, rest = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def _move(path: Path, place: Path) -> None:
    try:
        os.rename(path, place)
    except OSError as error:
        if error.errno != errno.EXDEV or _size(path) > KEPT_BYTES:
            raise
        shutil.move(path, place)


def _size(path: Path) -> int:
    size = os.lstat(path).st_size
    for folder, _folders, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size
    return size


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
