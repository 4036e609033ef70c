"""Tar streams unpacked, trusting nothing.

Every member is placed below the target by walking from its open directory component by component
(openat(2), O_NOFOLLOW), so that neither `..`, nor an absolute name, nor a link in the archive or on
the disk leads out of it.
"""

import errno
import shutil
import stat
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import IO, NamedTuple, cast

from sandkeeper.files.tar.members import HEADER_BYTES, LABEL, spans_in, stored_in
from sandkeeper.files.tar.packing import CHUNK, XATTR_PREFIX
from sandkeeper.linux.paths import useros as os

__all__ = ["Temporary", "UnsafeMember", "remove_member", "unpack"]

DIRECTORIES_OPEN = 65_536
DIRECTORIES_CHARACTERS = 16 << 20
"""So many directories, with paths so long, wait for their mode until the end. Of more, all but
those above the last get theirs at once."""

PATH_CHARACTERS = 32 << 10

Temporary = Callable[[str, str], AbstractContextManager[str]]
"""Given the target directory and a path below it: the base name of a temporary beside it."""


class UnsafeMember(Exception):
    """A member would be placed outside the target, or is of a kind that is not unpacked."""


_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(
    archive: tarfile.TarFile,
    root: str,
    *,
    owners: bool,
    temporary: Temporary,
    check: Callable[[], None] = lambda: None,
    trusted: bool = False,
    spared: Callable[[str, bool], bool] = lambda _path, _is_directory: False,
) -> int:
    """Unpack a stream below the directory `root`; returns the number of members.

    Files replace what stands at their name as a whole; directories are merged. `owners` keeps the
    archive's owners; `temporary(root, path)` records and names a temporary beside `path` while
    inside. A `trusted` archive may hold devices and extended attributes, and what is in the way
    of a member of another kind is removed. Members at a path that is `spared` (told whether they
    are directories) are passed over. Raises UnsafeMember, OSError, tarfile.TarError; what
    was unpacked before stays.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    count = characters = 0
    beside = partial(temporary, root)
    looks: dict[str, _Looks] = {}
    try:
        while (member := _next(archive)) is not None:
            check()
            names = _names(member.name)
            if not names or spared("/".join(names), member.isdir()):
                continue
            parent = _parent(top, names)
            try:
                _Place(archive, top, parent, names, owners, beside, check, trusted).put(member)
            finally:
                os.close(parent)
            if member.isdir():
                path = "/".join(names)
                looks.pop(path, None)  # the last word counts, and comes where it was said
                looks[path] = _Looks.of(member, trusted)
                characters += len(path)
                if len(looks) > DIRECTORIES_OPEN or characters > DIRECTORIES_CHARACTERS:
                    looks = _finish_directories(top, looks, owners, but_those_above=path)
                    characters = sum(map(len, looks))
            count += 1
        _finish_directories(top, looks, owners)
    finally:
        os.close(top)
    return count


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    member = archive.next()
    while member is not None and member.type == LABEL:
        member = archive.next()
    # The archive keeps every member it has read, for look-ups that never happen here.
    archive.members.clear()  # type: ignore[attr-defined]
    if sum(map(len, archive.pax_headers.values())) > HEADER_BYTES:
        raise tarfile.ReadError("too many global headers")
    return member


def _names(path: str) -> list[str]:
    """Split a member's name; raises UnsafeMember for one that is absolute or goes up."""
    if len(path) > PATH_CHARACTERS:
        raise UnsafeMember(f"a path of more than {PATH_CHARACTERS} characters")
    names = [name for name in path.split("/") if name not in {"", "."}]
    if path.startswith("/") or ".." in names or any("\0" in name for name in names):
        raise UnsafeMember(f"{path!r} leads out of the target")
    return names


def _parent(top: int, names: list[str]) -> int:
    """Open the directory a member belongs in, making what is missing; never through a link."""
    here = os.dup(top)
    for name in names[:-1]:
        try:
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=here)
            inner = os.open(name, _OPEN, dir_fd=here)
        except OSError as error:
            if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
                raise UnsafeMember(f"{'/'.join(names)!r} leads through a link or a file") from None
            raise
        finally:
            os.close(here)
        here = inner
    return here


def remove_member(root: str, path: str) -> bool:
    """Remove what is at `path` below `root`, with all in it; never through a link.

    Says whether something was there. Raises UnsafeMember for a path that leads out, OSError.
    """
    names = _names(path)
    if not names:
        raise UnsafeMember(f"{path!r} is the target itself")
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            inner = os.open(name, _OPEN, dir_fd=here)
            os.close(here)
            here = inner
        remove_at(here, names[-1])
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise
    finally:
        os.close(here)
    return True


def remove_at(folder: int, name: str) -> None:
    """Remove a name in an open directory, with all below it; links are not followed."""
    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(info.st_mode):
        shutil.rmtree(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


class _Place:
    """Where one member goes: a name in an open directory."""

    def __init__(
        self,
        archive: tarfile.TarFile,
        top: int,
        parent: int,
        names: list[str],
        owners: bool,
        temporary: Callable[[str], AbstractContextManager[str]],
        check: Callable[[], None],
        trusted: bool,
    ) -> None:
        self._trusted = trusted
        self._archive = archive
        self._top = top
        self._parent = parent
        self._path = "/".join(names)
        self._name = names[-1]
        self._owners = owners
        self._temporary = temporary
        self._check = check

    def put(self, member: tarfile.TarInfo) -> None:
        """Make the member; raises UnsafeMember for devices and other kinds."""
        if self._trusted:
            self._clear(member.isdir())
        if member.isdir():
            self._directory()
        elif member.isreg():
            self._replace(lambda name: self._file(member, name))
        elif member.issym():
            self._replace(lambda name: os.symlink(member.linkname, name, dir_fd=self._parent))
        elif member.islnk():
            self._replace(lambda name: self._link(member, name))
        elif member.isfifo():
            self._replace(lambda name: os.mkfifo(name, member.mode & 0o777, dir_fd=self._parent))
        elif member.isdev() and self._trusted:
            self._replace(lambda name: self._device(member, name))
        else:
            raise UnsafeMember(f"{self._path!r} is a device or of an unknown kind")

    def _clear(self, directory: bool) -> None:
        """Remove what cannot be replaced by a member of the other kind."""
        with suppress(FileNotFoundError):
            info = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode) != directory:
                remove_at(self._parent, self._name)

    def _device(self, member: tarfile.TarInfo, name: str) -> None:
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        number = os.makedev(member.devmajor, member.devminor)
        os.mknod(name, kind | member.mode & 0o777, number, dir_fd=self._parent)

    def _directory(self) -> None:
        with suppress(FileExistsError):
            # Writable for us until all is in it; the archive's mode comes last.
            os.mkdir(self._name, 0o700, dir_fd=self._parent)
        info = os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
        if not stat.S_ISDIR(info.st_mode):
            raise UnsafeMember(f"{self._path!r} is a directory in the archive and none here")

    def _replace(self, make: Callable[[str], None]) -> None:
        with self._temporary(self._path) as name:
            try:
                make(name)
                os.rename(name, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            except ConnectionError:
                raise
            except OSError as error:
                raise type(error)(error.errno, error.strerror, self._path) from None

    def _file(self, member: tarfile.TarInfo, name: str) -> None:
        spans = spans_in(member)
        source = cast("IO[bytes]", self._archive.extractfile(stored_in(member, spans)))
        fd = os.open(name, _NEW, 0o600, dir_fd=self._parent)
        try:
            for offset, length in spans:
                self._span(source, fd, offset, length)
            os.ftruncate(fd, member.size)
            _adorn(fd, _Looks.of(member, self._trusted), self._owners)
        finally:
            os.close(fd)

    def _span(self, source: IO[bytes], fd: int, offset: int, length: int) -> None:
        os.lseek(fd, offset, os.SEEK_SET)
        while length > 0 and (block := source.read(min(CHUNK, length))):
            self._check()
            length -= len(block)
            view = memoryview(block)
            while view:
                view = view[os.write(fd, view) :]

    def _link(self, member: tarfile.TarInfo, name: str) -> None:
        names = _names(member.linkname)
        if not names:
            raise UnsafeMember(f"{self._path!r} is a link to a directory")
        source = _parent(self._top, names)
        try:
            os.link(
                names[-1],
                name,
                src_dir_fd=source,
                dst_dir_fd=self._parent,
                follow_symlinks=False,
            )
        finally:
            os.close(source)


def _adorn(fd: int, looks: "_Looks", owners: bool) -> None:
    """Set owner, mode and time; a setuid bit only together with the owner it was given for.

    Extended attributes come after the owner, whose change drops capabilities.
    """
    mode = looks.mode & 0o777
    if owners:
        os.fchown(fd, looks.uid, looks.gid)
        mode = looks.mode & 0o7777
    os.fchmod(fd, mode)
    for name, value in looks.attributes:
        with suppress(OSError):  # a file system without them, or not our right
            data = value.encode("utf-8", "surrogateescape")
            os.setxattr(fd, name.removeprefix(XATTR_PREFIX), data)
    with suppress(OSError, OverflowError, ValueError):
        os.utime(fd, (looks.mtime, looks.mtime))


class _Looks(NamedTuple):
    """What is set of a directory when all is in it; little, for there may be very many."""

    mode: int
    uid: int
    gid: int
    mtime: float
    attributes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, member: tarfile.TarInfo, trusted: bool) -> "_Looks":
        """Take it from a member, extended attributes only of a trusted archive's."""
        found = [pair for pair in member.pax_headers.items() if pair[0].startswith(XATTR_PREFIX)]
        kept = tuple(found) if trusted else ()
        return cls(member.mode, member.uid, member.gid, member.mtime, kept)


def _finish_directories(
    top: int, looks: dict[str, _Looks], owners: bool, but_those_above: str = ""
) -> dict[str, _Looks]:
    """Give directories their looks, the last first; returns those that are still to be given."""
    left = {}
    for path in reversed(looks):
        if f"{but_those_above}/".startswith(f"{path}/"):
            left[path] = looks[path]
        else:
            _finish_directory(top, path.split("/"), looks[path], owners)
    return dict(reversed(left.items()))


def _finish_directory(top: int, names: list[str], looks: _Looks, owners: bool) -> None:
    with suppress(FileNotFoundError, UnsafeMember, NotADirectoryError):
        parent = _parent(top, names)
        try:
            fd = os.open(names[-1], _OPEN, dir_fd=parent)
        finally:
            os.close(parent)
        try:
            _adorn(fd, looks, owners)
        finally:
            os.close(fd)
