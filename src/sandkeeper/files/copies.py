"""Copying and moving, as `cp -r` and `mv` place things. Blocking, as `files.service`."""

import errno
import stat
from contextlib import suppress
from dataclasses import dataclass

from sandkeeper.errors import (
    Conflict,
    NotFound,
    SandkeeperError,
    Task,
    Unprocessable,
    failure,
)
from sandkeeper.files.changing.removal import remove_tree
from sandkeeper.files.changing.renaming import exclusive_rename
from sandkeeper.files.changing.replace import Draft
from sandkeeper.files.conditions import Conditions
from sandkeeper.files.paths import temporary_name
from sandkeeper.files.service import MISSING, OPEN_READ, Fault, Files
from sandkeeper.files.walk import walk
from sandkeeper.files.work import Cancel
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.below import is_within

__all__ = ["Copies"]

EXISTS = "FILE_ALREADY_EXISTS"


class Copies:
    """Copies and moves within the sandbox."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def copy(self, source: str, destination: str, no_overwrite: bool, cancel: Cancel) -> str:
        """Copy a file, link or tree; returns where it went.

        Links are copied as links, special files are refused. Raises Conflict (code
        FILE_ALREADY_EXISTS) under `no_overwrite`, otherwise Unprocessable, StorageFull.
        """
        try:
            info = os.lstat(source)
            target = _placed(source, destination)
            _refuse_inside(source, target)
            job = _Copy(self._files, no_overwrite, cancel)
            if not stat.S_ISDIR(info.st_mode):
                job.one(source, target, info)
                return target
            fresh = not os.path.lexists(target)
            try:
                job.tree(source, target)
            except BaseException:
                if fresh:  # nothing is left of a copy that could not be made
                    with suppress(OSError):
                        remove_tree(target)
                raise
            return target
        except FileExistsError as error:
            raise _exists(Task.COPY, source, error.filename or destination, no_overwrite) from None
        except Fault as error:
            raise _failed(Task.COPY, source, destination, error) from None

    def move(
        self,
        source: str,
        destination: str,
        no_overwrite: bool,
        conditions: Conditions,
        cancel: Cancel,
    ) -> str:
        """Rename, or across file systems copy and delete; returns where it went.

        A directory is never merged into another. Raises NotFound, Conflict, PreconditionFailed,
        Unprocessable, StorageFull.
        """
        try:
            info = os.lstat(source)
            target = _placed(source, destination)
            with self._files.locks.hold(source, target):
                if conditions:
                    conditions.check(os.stat(source))
                self._rename(source, target, info, no_overwrite, cancel)
            return target
        except FileNotFoundError as error:
            if error.filename not in {None, source}:
                raise _failed(Task.MOVE, source, destination, error) from None
            raise NotFound(MISSING) from None
        except FileExistsError as error:
            raise _exists(Task.MOVE, source, error.filename or destination, no_overwrite) from None
        except Fault as error:
            raise _failed(Task.MOVE, source, destination, error) from None

    def place(self, source: str, target: str, cancel: Cancel) -> None:
        """Move to exactly `target`, as rename(2) does, also across file systems.

        Raises OSError; Unprocessable for the root.
        """
        info = os.lstat(source)
        with self._files.locks.hold(source, target):
            self._rename(source, target, info, False, cancel)

    def _rename(
        self, source: str, target: str, info: os.stat_result, no_overwrite: bool, cancel: Cancel
    ) -> None:
        if os.path.samestat(info, os.stat("/")):
            raise Unprocessable("refusing to move /")
        os.stat(os.path.dirname(target))  # names the missing parent, which rename(2) does not
        try:
            if no_overwrite:
                exclusive_rename(source, target)
            else:
                os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise type(error)(error.errno, error.strerror, target) from None
            self._across(source, target, info, no_overwrite, cancel)

    def _across(
        self, source: str, target: str, info: os.stat_result, no_overwrite: bool, cancel: Cancel
    ) -> None:
        """Copy next to the target, put the copy in place, then delete the source."""
        if no_overwrite and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        name = temporary_name(replacing=os.path.lexists(target))
        staged = os.path.join(os.path.dirname(target), name)
        with self._files.temporary(staged):
            job = _Copy(self._files, True, cancel, faithful=True)
            if stat.S_ISDIR(info.st_mode):
                job.tree(source, staged)
            else:
                job.one(source, staged, info)
            if no_overwrite:
                exclusive_rename(staged, target)
            else:
                os.rename(staged, target)
        if stat.S_ISDIR(info.st_mode):
            self._files.delete_directory(source, True, cancel)
        else:
            os.unlink(source)


@dataclass(slots=True)
class _Copy:
    """One copy under way; `faithful` keeps owner, times and special bits, as a move must."""

    files: Files
    exclusive: bool
    cancel: Cancel
    faithful: bool = False

    def tree(self, source: str, target: str) -> None:
        """Copy a directory; its mode comes last, so that a read-only one can be filled."""
        made: list[tuple[str, os.stat_result]] = []
        self._directory(source, target, made)
        for found in walk(source, check=self.cancel.check, on_error=_raise):
            inside = os.path.join(target, found.relative)
            if found.is_directory:
                self._directory(found.path, inside, made)
            else:
                self.one(found.path, inside, os.lstat(found.path))
        for path, info in reversed(made):
            os.chmod(path, stat.S_IMODE(info.st_mode))
            self._faithfully(path, info)

    def _directory(self, source: str, target: str, made: list[tuple[str, os.stat_result]]) -> None:
        info = os.stat(source)
        try:
            os.mkdir(target, 0o700)
        except FileExistsError:
            if self.exclusive:
                raise
            if not os.path.isdir(target):
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), target
                ) from None
            return
        made.append((target, info))

    def one(self, source: str, target: str, info: os.stat_result) -> None:
        """Copy a regular file or a link; raises OSError for anything else."""
        if stat.S_ISLNK(info.st_mode):
            self._link(source, target)
        elif stat.S_ISREG(info.st_mode):
            self._file(source, target)
        else:
            raise OSError(errno.EINVAL, "not a regular file, directory or link", source)
        self._faithfully(target, info)

    def _file(self, source: str, target: str) -> None:
        fd = os.open(source, OPEN_READ | os.O_NOFOLLOW)
        draft: Draft | None = None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise OSError(errno.EINVAL, "not a regular file, directory or link", source)
            if self.exclusive and os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
            if os.path.exists(target) and os.path.samestat(info, os.stat(target)):
                raise OSError(errno.EINVAL, "source and destination are the same file", target)
            os.stat(os.path.dirname(target))  # a copy makes no parents
            draft = self.files.draft(target, info.st_mode)
            draft.copy_from(fd, self.cancel.check)
            if self.exclusive:
                draft.create()
            else:
                self._commit(draft, info)
        finally:
            os.close(fd)
            if draft is not None:
                draft.discard()

    def _commit(self, draft: Draft, info: os.stat_result) -> None:
        fresh = not os.path.lexists(draft.path)
        draft.commit()
        if fresh:  # the mode is the source's, whatever the umask is
            os.chmod(draft.path, stat.S_IMODE(info.st_mode) & 0o777)

    def _link(self, source: str, target: str) -> None:
        text = os.readlink(source)
        if self.exclusive:
            os.symlink(text, target)
            return
        if os.path.isdir(target) and not os.path.islink(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        name = temporary_name(replacing=os.path.lexists(target))
        staged = os.path.join(os.path.dirname(target), name)
        with self.files.temporary(staged):
            os.symlink(text, staged)
            os.rename(staged, target)

    def _faithfully(self, path: str, info: os.stat_result) -> None:
        if not self.faithful:
            return
        with suppress(OSError):
            os.chown(path, info.st_uid, info.st_gid, follow_symlinks=False)
            if not stat.S_ISLNK(info.st_mode):
                os.chmod(path, stat.S_IMODE(info.st_mode))
        with suppress(OSError):
            times = (info.st_atime_ns, info.st_mtime_ns)
            os.utime(path, ns=times, follow_symlinks=False)


def _placed(source: str, destination: str) -> str:
    """Say where `source` ends: inside an existing directory under its own name."""
    if os.path.isdir(destination):
        return os.path.join(destination, os.path.basename(source))
    return destination


def _refuse_inside(source: str, target: str) -> None:
    """Raise OSError for a directory that would be copied into itself."""
    if os.path.islink(source) or not os.path.isdir(source):
        return
    inner = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
    outer = os.path.realpath(source)
    if is_within(inner, outer):
        raise OSError(errno.EINVAL, "cannot copy a directory into itself", target)


def _exists(task: Task, source: str, path: str, no_overwrite: bool) -> SandkeeperError:
    if no_overwrite:
        return Conflict(f"{path} already exists", code=EXISTS)
    return Unprocessable(f"{path} already exists", task=task, about=source)


def _failed(
    task: Task, source: str, destination: str, error: OSError | ValueError
) -> SandkeeperError:
    step = "copy" if task is Task.COPY else "rename"
    return failure(Unprocessable, task, step, destination, error, about=source)


def _raise(_path: str, error: OSError) -> None:
    raise error
