"""Files and directories: read, list, write, delete. Blocking; the callers run it by `FileWork`.

Paths are absolute and resolved (`files.paths`); errors say `<op> <path>: <reason>`.
"""

import asyncio
import errno
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sandkeeper.errors import (
    Internal,
    NotFound,
    SandkeeperError,
    Task,
    TooLargeToRead,
    Unprocessable,
    failure,
)
from sandkeeper.files.changing.pathlocks import PathLocks
from sandkeeper.files.changing.removal import remove_tree
from sandkeeper.files.changing.replace import Draft, make_directories, survey
from sandkeeper.files.changing.temporaries import Temporaries, remove_temporary
from sandkeeper.files.conditions import NO_CONDITIONS, Conditions
from sandkeeper.files.entries import Owners
from sandkeeper.files.opened import Content, Listing, Opened, Text
from sandkeeper.files.paths import (
    TEMPORARY_PREFIX,
    Target,
    is_temporary,
    resolve,
    resolve_text,
    working_directory,
)
from sandkeeper.files.reading import FileBlocks, is_pseudo, read_to
from sandkeeper.files.work import Cancel, FileWork
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.inmemory import InMemory
from sandkeeper.log.lines import Log
from sandkeeper.pieces import in_order
from sandkeeper.settings import FileSettings

__all__ = ["Content", "Files", "Listing", "Opened", "Text", "Upload"]

Fault = (OSError, ValueError)
MISSING = "file or directory not found"
SMALL_BYTES = 256 << 10
FIRST_BYTES = 1 << 16
OPEN_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Files:
    """The files of the sandbox."""

    def __init__(
        self,
        work: FileWork,
        temporaries: Temporaries,
        settings: FileSettings,
        *,
        workdir: str,
        home: Callable[[], str],
    ) -> None:
        self.work = work
        self.settings = settings
        self.workdir = workdir
        self._home = home
        self.locks = PathLocks()
        self.owners = Owners()
        self.memory = InMemory()
        self._temporaries = temporaries

    async def start(self, log: Log) -> None:
        """Open the journal of temporaries and remove what a crash left."""
        try:
            removed = await asyncio.to_thread(self._temporaries.open)
        except OSError as error:
            log.write("warning", f"temporary files are not recorded: {error}")
            return
        if removed:
            log.write("info", f"removed {len(removed)} temporary files that a crash had left")

    def stop(self) -> None:
        """Close the journal."""
        self._temporaries.close()
        self.memory.close()

    def resolve(self, raw_rest: bytes) -> Target:
        """Resolve the path of a URL; raises BadInput."""
        # As `~` or escaped; looking the home up costs more than the rest.
        home = self._home() if b"~" in raw_rest or b"%7" in raw_rest else ""
        return resolve(raw_rest, workdir=self.workdir, home=home)

    def resolve_text(self, path: str) -> Target:
        """Resolve a path of a JSON body; raises BadInput."""
        home = self._home() if path.startswith("~") else ""
        return resolve_text(path, workdir=self.workdir, home=home)

    def working_directory(self, path: str) -> str:
        """Return where a process is to run, `~` expanded; raises BadInput without a home."""
        return working_directory(path, home=self._home() if path.startswith("~") else "")

    # Reading

    def look(self, path: str, otherwise: type[SandkeeperError] = Internal) -> os.stat_result:
        """Return what `path` leads to.

        Raises NotFound, Unprocessable for what can be no path, or `otherwise` (the contract's GET
        answers 500 for ENOTDIR, EACCES, …).
        """
        try:
            return os.stat(path)
        except ValueError as error:
            raise failure(Unprocessable, None, "stat", path, error) from None
        except FileNotFoundError as error:
            raise failure(NotFound, None, "stat", path, error) from None
        except Fault as error:
            raise failure(otherwise, None, "stat", path, error) from None

    def listing(self, path: str) -> Listing:
        """Open a directory and read its names, one level; raises Unprocessable."""
        try:
            fd = OwnedFd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except Fault as error:
            raise failure(Unprocessable, Task.LIST_DIRECTORY, "open", path, error) from None
        made = Listing(os.fstat(fd.number), fd)
        try:
            with os.scandir(fd.number) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(TEMPORARY_PREFIX) and is_temporary(name):
                        continue
                    kind = made.directories if _is_directory(entry) else made.files
                    kind.append(name)
        except OSError as error:
            fd.close()
            raise failure(Unprocessable, Task.LIST_DIRECTORY, "read", path, error) from None
        made.files = in_order(made.files, _byte_order(made.files))
        made.directories = in_order(made.directories, _byte_order(made.directories))
        self.owners.refresh()
        return made

    def open(self, path: str, info: os.stat_result) -> Opened:
        """Open a regular file for streaming; raises Unprocessable."""
        try:
            fd, now = self._open_regular(path, info)
        except Fault as error:
            raise failure(Unprocessable, Task.OPEN_FILE, "open", path, error) from None
        if now.st_size > FIRST_BYTES or not is_pseudo(now):
            return Opened(now, fd, now.st_size)
        try:
            first = os.pread(fd.number, FIRST_BYTES, 0)
            if len(first) == now.st_size:
                return Opened(now, fd, now.st_size)
            os.lseek(fd.number, len(first), os.SEEK_SET)
            return Opened(now, fd, None, first)
        except OSError as error:
            fd.close()
            raise failure(Unprocessable, Task.OPEN_FILE, "read", path, error) from None

    def text(self, path: str, info: os.stat_result) -> Text:
        """Open a regular file of up to `settings.read_limit` bytes; raises Unprocessable.

        What has no size (a pseudo-file), or little, is read as a whole.
        """
        if not SMALL_BYTES < info.st_size <= self.settings.read_limit:
            found = self.content(path, info)
            return Text(found.info, len(found.data), [found.data])
        try:
            fd, now = self._open_regular(path, info)
        except Fault as error:
            raise failure(Unprocessable, Task.READ_FILE, "read", path, error) from None
        size = min(now.st_size, self.settings.read_limit)
        return Text(now, size, FileBlocks(fd, size))

    def content(self, path: str, info: os.stat_result) -> Content:
        """Read a whole regular file up to `settings.read_limit` bytes; raises Unprocessable."""
        limit = self.settings.read_limit
        try:
            fd, now = self._open_regular(path, info)
            try:
                data = b"" if now.st_size > limit else read_to(fd.number, limit + 1, now.st_size)
            finally:
                fd.close()
        except Fault as error:
            raise failure(Unprocessable, Task.READ_FILE, "read", path, error) from None
        if now.st_size > limit or len(data) > limit:
            raise TooLargeToRead(f"{path} is larger than {limit} bytes", task=Task.READ_FILE)
        return Content(now, data)

    def part(self, path: str, info: os.stat_result) -> FileBlocks:
        """Yield as much of a regular file as `info` says it has; raises OSError."""
        return FileBlocks(self._open_regular(path, info)[0], info.st_size)

    def _open_regular(self, path: str, info: os.stat_result) -> tuple[OwnedFd, os.stat_result]:
        """Open what `info` calls a regular file without ever waiting for a FIFO's other end."""
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        fd = OwnedFd(os.open(path, OPEN_READ))
        now = os.fstat(fd.number)
        if not stat.S_ISREG(now.st_mode):  # replaced since it was looked at
            fd.close()
            raise OSError(errno.EINVAL, "not a regular file", path)
        return fd, now

    # Writing

    def draft(self, path: str, mode: int) -> Draft:
        """Begin writing a file of which parents are made as needed; raises OSError, ValueError."""
        place = survey(path)
        if place.before is None:
            parent = os.path.dirname(path)
            if not os.path.isdir(parent):
                make_directories(parent, 0o755)
        return Draft(place, mode, self._temporaries, self.locks)

    def write(
        self, path: str, data: bytes, mode: int = 0o644, conditions: Conditions = NO_CONDITIONS
    ) -> os.stat_result:
        """Write a whole file; returns its state. Raises Unprocessable, StorageFull,
        PreconditionFailed.
        """
        try:
            draft = self.draft(path, mode)
            try:
                draft.write(data)
            except BaseException:
                draft.discard()
                raise
            return draft.commit(conditions.check if conditions else None)
        except Fault as error:
            raise failure(Unprocessable, Task.WRITE_FILE, "open", path, error) from None

    @contextmanager
    def temporary(self, path: str) -> Iterator[None]:
        """Have `path` recorded while inside, and removed afterwards if it is still there."""
        slot = self._temporaries.enter(path)
        try:
            yield
        finally:
            remove_temporary(path)
            self._temporaries.leave(slot)

    def upload(self, path: str, conditions: Conditions) -> "Upload":
        """Return what a `Feed` needs to write a file of unknown length."""
        return Upload(self, path, conditions)

    def make_directory(self, path: str, mode: int, conditions: Conditions = NO_CONDITIONS) -> None:
        """Make a directory and its parents, all with `mode`; one that exists stays as it is.

        Raises Unprocessable, StorageFull, PreconditionFailed.
        """
        try:
            with self.locks.hold(path):
                if conditions:
                    conditions.check(_present(path))
                make_directories(path, mode & 0o777)
        except Fault as error:
            raise failure(Unprocessable, Task.CREATE_DIRECTORY, "mkdir", path, error) from None

    # Deleting

    def delete(self, path: str, recursive: bool, conditions: Conditions, cancel: Cancel) -> bool:
        """Delete a file, link or directory; returns whether it was (or linked to) a directory.

        Raises NotFound, Unprocessable (not empty, or the root), PreconditionFailed.
        """
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            conditions.check(None)
            raise NotFound(MISSING) from None
        except Fault as error:
            raise failure(Unprocessable, None, "stat", path, error) from None
        is_directory = stat.S_ISDIR(info.st_mode)
        counts = is_directory or _leads_to_directory(path)
        with self.locks.hold(path):
            if conditions:
                conditions.check(_present(path))
            try:
                if not is_directory:
                    os.unlink(path)
                else:
                    self.delete_directory(path, recursive, cancel)
            except FileNotFoundError:
                raise NotFound(MISSING) from None
            except OSError as error:
                operation = "unlinkat" if recursive and is_directory else "remove"
                task = Task.DELETE_DIRECTORY if counts else Task.DELETE_FILE
                raise failure(Unprocessable, task, operation, path, error) from None
        return counts

    def delete_directory(self, path: str, recursive: bool, cancel: Cancel) -> None:
        """Remove a directory, with all that is in it if `recursive`; never the root.

        Raises OSError, and Unprocessable for the root by whatever name.
        """
        if os.path.samestat(os.stat(path), os.stat("/")):
            raise Unprocessable("refusing to delete /", task=Task.DELETE_DIRECTORY)
        if recursive:
            remove_tree(path, cancel.check)
        else:
            os.rmdir(path)


class Upload:
    """The sink of a streamed write; what a Draft has may be set until the commit. Call it first."""

    def __init__(self, files: Files, path: str, conditions: Conditions) -> None:
        self.mode = 0o644
        self.kind = ""
        self.attributes: dict[str, bytes] = {}
        self._files = files
        self._path = path
        self._conditions = conditions
        self._draft: Draft | None = None

    def __call__(self) -> "Upload":
        """Open the draft; raises Unprocessable, StorageFull, PreconditionFailed."""
        if self._conditions:  # early, to spare the caller an upload in vain; the commit decides
            self._conditions.check(_present(self._path))
        with self._failures("open"):
            self._draft = self._files.draft(self._path, self.mode)
        return self

    def write_pieces(self, pieces: list[bytes]) -> None:
        """Append."""
        with self._failures():
            self._opened.write_pieces(pieces)

    def commit(self) -> os.stat_result:
        """Put the file in place; returns its state."""
        draft = self._opened
        draft.mode = self.mode & 0o777
        draft.kind, draft.attributes = self.kind, self.attributes
        with self._failures():
            return draft.commit(self._conditions.check if self._conditions else None)

    def discard(self) -> None:
        """Drop what was not committed."""
        if self._draft is not None:
            self._draft.discard()

    @property
    def _opened(self) -> Draft:
        if self._draft is None:
            raise RuntimeError("an upload is called before it is written to")
        return self._draft

    @contextmanager
    def _failures(self, operation: str = "write") -> Iterator[None]:
        try:
            yield
        except Fault as error:
            raise failure(Unprocessable, Task.STORE_FILE, operation, self._path, error) from None


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _byte_order(names: list[str]) -> Callable[[str], bytes] | None:
    """Return the sort key that gives byte order: code points do, but for undecodable bytes."""
    plain = "".join(names).isascii()
    return None if plain else os.fsencode


def _leads_to_directory(path: str) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.stat(path).st_mode)
    return False


def _present(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        try:
            return os.lstat(path)
        except OSError:
            return None
