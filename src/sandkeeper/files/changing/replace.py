"""Writing a file as a whole: whoever reads the target sees the old content or the new, no mixture.

A `Draft` is a temporary file in the target's directory; `commit` renames it over the target. Mode,
owner and extended attributes of an existing file are kept and symbolic links are followed.

In place, as the kernel's open(O_TRUNC) would, is written only what a rename cannot replace:
devices, FIFOs and other special files, files with several hard links (all names must see the new
content), mount points, files whose owner we may not give to the new one, and files in a directory
we may not write to. The draft then lies elsewhere and is copied once it is whole; the space is
reserved first, so that a full disk is noticed before the old content is touched. Only a few special
files are written to at a time, and each for a minute at most: their other end may take its time.
"""

import errno
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from sandkeeper.files.changing import holes
from sandkeeper.files.changing.pathlocks import PathLocks
from sandkeeper.files.changing.renaming import exclusive_rename
from sandkeeper.files.changing.temporaries import Temporaries
from sandkeeper.files.changing.writing import special_write, write_all
from sandkeeper.files.paths import is_replacement, temporary_name
from sandkeeper.linux.paths import useros as os

__all__ = ["Draft", "Place", "make_directories", "survey"]

COPY_BYTES = 1 << 20
MANY_PIECES = 512  # below IOV_MAX
# What open(2) of a new file in the directory may say although the file itself can be written.
NO_NEIGHBOUR = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG})
NO_RENAME = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})

Check = Callable[[os.stat_result | None], None]


class Place(NamedTuple):
    """Where a write ends: the path behind all links, and what is there now."""

    path: str
    before: os.stat_result | None

    @property
    def renamable(self) -> bool:
        """Whether what is there, if anything, can be replaced by a rename."""
        return self.before is None or _is_renamable(self.before)


def _is_renamable(info: os.stat_result) -> bool:
    return stat.S_ISREG(info.st_mode) and info.st_nlink == 1


def survey(path: str) -> Place:
    """Find where writing to `path` ends.

    Raises OSError as open(2) for writing would: EISDIR, EACCES, ELOOP, ENOTDIR, ENAMETOOLONG.
    """
    place = _behind_links(path)
    before = place.before
    if before is None:
        return place
    if stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if stat.S_ISREG(before.st_mode):
        try:
            os.close(os.open(place.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.ETXTBSY:  # a running program can be replaced, not rewritten
                raise
    return place


def _behind_links(path: str) -> Place:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return Place(path, None)
    if not stat.S_ISLNK(info.st_mode):
        return Place(path, info)
    try:
        # The kernel follows first, so that its own rules (protected_symlinks, ELOOP) hold.
        reached: os.stat_result | None = os.stat(path)
    except FileNotFoundError:
        reached = None
    final = os.path.realpath(path)
    try:
        behind: os.stat_result | None = os.lstat(final)
    except FileNotFoundError:
        behind = None
    if reached is not None and (behind is None or not os.path.samestat(behind, reached)):
        return Place(path, reached)  # a magic link as /dev/stdout: no other path leads there
    return Place(final, behind)


def make_directories(path: str, mode: int) -> list[str]:
    """Create `path` and its missing parents, each with `mode`; returns those created, in order.

    Raises OSError with the path at fault, ENOTDIR where a component is a file.
    """
    missing: list[str] = []
    current = path
    while True:
        try:
            info = os.stat(current)
        except FileNotFoundError:
            missing.append(current)
            current = os.path.dirname(current)
            continue
        if not stat.S_ISDIR(info.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), current)
        break
    created = []
    for directory in reversed(missing):
        try:
            os.mkdir(directory, mode)
            created.append(directory)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
    return created


class Draft:
    """New content for one target, written piece by piece; then `commit` or `discard`, once.

    `mode` (low 9 bits, under the umask) is that of a file that does not exist yet and may be set
    until the commit. So may `attributes`, which take the place of all extended ones of `kind` (the
    beginning of their names).
    """

    def __init__(self, place: Place, mode: int, temporaries: Temporaries, locks: PathLocks) -> None:
        self.path = place.path
        self.mode = mode & 0o777
        self.kind = ""
        self.attributes: Mapping[str, bytes] = {}
        self._temporaries = temporaries
        self._locks = locks
        self._slot = -1
        self._temporary = ""
        self._fd = -1
        self._made_with = self.mode
        if not (place.renamable and self._open_neighbour(place)):
            # Anonymous: nothing to sweep, whatever happens.
            with tempfile.TemporaryFile(buffering=0) as spool:
                self._fd = os.dup(spool.fileno())
        self.size = 0
        self._holes = place.before is not None and holes.has_holes(place.before)

    def __repr__(self) -> str:
        return f"<Draft of {self.path!r}, {self.size} bytes>"

    def _open_neighbour(self, place: Place) -> bool:
        name = temporary_name(replacing=place.before is not None)
        path = f"{self.path.rpartition('/')[0]}/{name}"
        self._slot = self._temporaries.enter(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, self.mode if place.before is None else 0o600)
        except OSError as error:
            self._release_slot()
            if place.before is None or error.errno not in NO_NEIGHBOUR:
                raise type(error)(error.errno, error.strerror, self.path) from None
            return False
        self._temporary = path
        return True

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; a file that has holes is given them again. Raises OSError."""
        if self._holes:
            holes.write(self._fd, data, self.size)
        else:
            write_all(self._fd, data)
        self.size += len(data)

    def write_pieces(self, pieces: list[bytes]) -> None:
        """Append several pieces at once; raises OSError."""
        if self._holes:
            self.write(b"".join(pieces))
            return
        wanted = sum(map(len, pieces))
        written = os.writev(self._fd, pieces) if len(pieces) <= MANY_PIECES else 0
        self.size += wanted
        if written < wanted:
            write_all(self._fd, memoryview(b"".join(pieces))[written:])

    def copy_from(self, source: int, check: Callable[[], None] = lambda: None) -> None:
        """Append all that an open regular file has, holes as holes; raises OSError."""
        self.size += holes.copy(source, self._fd, self.size, check)

    def adopt(self, source: str, fd: int, folder: int) -> bool:
        """Have a finished file, open as `fd`, become the content without a copy.

        It is linked into the target's `folder` and stays where it is, so nothing is lost when the
        commit fails. False where the two would differ in more than their bytes, or cannot be one.
        """
        mine, its = os.fstat(self._fd), os.fstat(fd)
        alike = (mine.st_dev, mine.st_uid, 1) == (its.st_dev, its.st_uid, its.st_nlink)
        if not (self._temporary and alike) or self._holes:
            return False
        name = temporary_name(replacing=is_replacement(os.path.basename(self._temporary)))
        path = os.path.join(os.path.dirname(self._temporary), name)
        slot = self._temporaries.enter(path)
        try:
            there = os.stat(os.path.basename(self._temporary), dir_fd=folder, follow_symlinks=False)
            if not os.path.samestat(there, mine) or os.listxattr(self._fd):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            if its.st_gid != mine.st_gid:
                os.fchown(fd, -1, mine.st_gid)
            os.fchmod(fd, stat.S_IMODE(mine.st_mode))
            os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            self._temporaries.leave(slot)
            return False
        self.discard()
        self._temporary, self._slot, self._fd, self.size = path, slot, os.dup(fd), its.st_size
        return True

    def seal(self) -> None:
        """Give the descriptor back before the commit; for drafts that are held in numbers."""
        if self._temporary and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def create(self) -> None:
        """Put the content in place of nothing; raises FileExistsError when there is something."""
        try:
            with self._locks.hold(self.path):
                if not self._temporary:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path)
                self._reopen()
                os.fchmod(self._fd, self.mode)
                exclusive_rename(self._temporary, self.path)
                self._temporary = ""
        finally:
            self.discard()

    def commit(self, check: Check | None = None) -> os.stat_result:
        """Put the content in place; returns the target's new state. Raises OSError.

        `check` gets the target's present state (None: it does not exist) and raises to refuse;
        between it and the replacement no other commit to this path happens. Whatever fails, the
        draft is gone afterwards.
        """
        try:
            with self._locks.hold(self.path):
                now = _state(self.path)
                if check is not None:
                    check(now)
                if self._temporary and self._replace(now):
                    return os.fstat(self._fd)
                return self._copy_in_place(now)
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what has been written, unless it was committed; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = ""
        if self._slot >= 0:
            self._release_slot()

    def _release_slot(self) -> None:
        self._temporaries.leave(self._slot)
        self._slot = -1

    def _reopen(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self._temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _replace(self, now: os.stat_result | None) -> bool:
        """Rename over the target; False when it has to be written in place."""
        self._reopen()
        if now is None:
            replacing = is_replacement(os.path.basename(self._temporary))
            if replacing or self.mode != self._made_with:
                os.fchmod(self._fd, self.mode & ~_umask())
        elif not _is_renamable(now) or not self._take_over(now):
            return False
        self._mark(self._fd)
        # The kernel's coarse clock gives two quick writes one time; an ETag needs them distinct.
        moment = time.time_ns()
        with suppress(OSError):
            os.utime(self._fd, ns=(moment, moment))
        try:
            os.rename(self._temporary, self.path)
        except OSError as error:
            if now is None or error.errno not in NO_RENAME:
                raise type(error)(error.errno, error.strerror, self.path) from None
            return False
        self._temporary = ""
        return True

    def _take_over(self, now: os.stat_result) -> bool:
        """Give the draft the owner, mode and attributes of the file it replaces."""
        mine = os.fstat(self._fd)
        try:
            if (mine.st_uid, mine.st_gid) != (now.st_uid, now.st_gid):
                os.fchown(self._fd, now.st_uid, now.st_gid)
            os.fchmod(self._fd, stat.S_IMODE(now.st_mode))
        except OSError:
            return False
        with suppress(OSError):  # not all can be set, and not everywhere
            for name in os.listxattr(self.path):
                os.setxattr(self._fd, name, os.getxattr(self.path, name))
        return True

    def _mark(self, fd: int) -> None:
        """Set the attributes; raises OSError where the file system has none."""
        if not self.kind:
            return
        with suppress(OSError):
            for name in os.listxattr(fd):
                if name.startswith(self.kind):
                    os.removexattr(fd, name)
        for name, value in self.attributes.items():
            os.setxattr(fd, self.kind + name, value)

    def _copy_in_place(self, now: os.stat_result | None) -> os.stat_result:
        self._reopen()
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        target = os.open(self.path, flags, self.mode)
        try:
            if not stat.S_ISREG(os.fstat(target).st_mode):
                with special_write() as until:
                    self._copy_to(target, until)
            else:
                holes.overwrite(self._fd, target, self.size)
                self._mark(target)
            return os.fstat(target)
        finally:
            os.close(target)

    def _copy_to(self, target: int, until: float) -> None:
        offset = 0
        while block := os.pread(self._fd, COPY_BYTES, offset):
            write_all(target, block, until)
            offset += len(block)


def _state(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _umask() -> int:
    """Return this process's umask; reading it by umask(2) would change it for other threads."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
