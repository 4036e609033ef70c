"""Files of our own: read only if nobody else can have written them, replaced atomically."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["UntrustedFile", "make_private_folder", "read_own", "write_atomically"]

READ_BYTES = 1 << 20


class UntrustedFile(Exception):
    """The file is a link, not regular, too large, or somebody else could have written it."""


def make_private_folder(path: Path) -> None:
    """Make a folder that only we may enter; raises OSError, or UntrustedFile if it is not ours."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise UntrustedFile(f"{path} is not a folder of our own")


def read_own(path: Path) -> bytes | None:
    """Return the content of a file that belongs to us and that only we may write.

    None when there is no such file; raises UntrustedFile, or OSError as open(2) does.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UntrustedFile(f"{path}: {error.strerror}") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1 or info.st_size > READ_BYTES:
            raise UntrustedFile(f"{path} is not a plain small file")
        if info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise UntrustedFile(f"{path} could have been written by somebody else")
        with open(fd, "rb", closefd=False) as file:
            return file.read(READ_BYTES)
    finally:
        os.close(fd)


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
