"""The two ends of a mount as open folders: the mount point, and a folder of the `bind` driver.

With a workload's user both are opened, and made, as that user: it can have nothing mounted where it
could not have written itself, nor from where. What is open stays the same whatever is renamed or
linked meanwhile. All of this blocks, and may hang on a dead file system.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sandkeeper.drives.rules import Reach
from sandkeeper.errors import Forbidden, Task
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.linux.mounts import PSEUDO, mount_id, mounts, walk_plainly
from sandkeeper.linux.paths.trusted import UntrustedFile, open_trusted_folder

if TYPE_CHECKING:
    from sandkeeper.drives.drivers import Plan

__all__ = ["Point", "open_point", "open_source", "remove_made"]

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Point:
    """An open mount point; `made` is how many folders at the end of `path` were made for it."""

    def __init__(self, path: str, fd: int, made: int, workload: Identity | None) -> None:
        self.path = path
        self.folder = OwnedFd(fd)
        self.made = made
        self._workload = workload

    def close(self) -> None:
        """Let it go; it stays as it is."""
        self.folder.close()

    def undo(self) -> None:
        """Remove what was made."""
        remove_made(self.path, self.made, self._workload)


def open_point(path: str, workload: Identity | None) -> Point:
    """Open a mount point without following links, make what is missing; as `workload` if given.

    Raises Forbidden for a folder that is not the workload's, OSError.
    """
    names = [name for name in path.split("/") if name]
    with acting_for(workload):
        start = os.open("/", _FOLDER)
        fd, made = _descend(start, names)
    point = Point(path, fd, made, workload)
    try:
        if workload is not None:
            _refuse_foreign(fd, path, workload)
    except BaseException:
        point.close()
        point.undo()
        raise
    return point


def _refuse_foreign(fd: int, path: str, workload: Identity) -> None:
    if os.fstat(fd).st_uid != workload.uid:
        raise Forbidden(
            f"{path} does not belong to the workload's user {workload.name}",
            task=Task.ACCEPT_MOUNT_PATH,
        )
    lies_on = mount_id(fd)
    kind = next((mount.kind for mount in mounts() if mount.id == lies_on), "")
    if kind in PSEUDO:  # folders of its processes and groups, in which the server looks things up
        raise Forbidden(f"{path} is on a {kind} file system", task=Task.ACCEPT_MOUNT_PATH)


def _descend(fd: int, names: Sequence[str]) -> tuple[int, int]:
    """Walk down from `fd`, which is closed, and make what is missing; returns how much that was.

    Nothing that was made is left after a failure.
    """
    trail = [fd]
    made: list[tuple[int, str]] = []
    try:
        for name in names:
            above = trail[-1]
            try:
                trail.append(os.open(name, _FOLDER, dir_fd=above))
            except FileNotFoundError:
                if _make(name, above):
                    made.append((above, name))
                else:
                    made.clear()  # somebody else made it meanwhile, and may need what is above
                trail.append(os.open(name, _FOLDER, dir_fd=above))
    except BaseException:
        with suppress(OSError):
            for above, name in reversed(made):
                os.rmdir(name, dir_fd=above)
        for one in trail:
            os.close(one)
        raise
    for one in trail[:-1]:
        os.close(one)
    return trail[-1], len(made)


def _make(name: str, above: int) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=above)
    except FileExistsError:
        return False
    return True


def remove_made(path: str, made: int, workload: Identity | None) -> None:
    """Remove the last `made` folders of a path as far as they are empty; follows no link."""
    with acting_for(workload), suppress(OSError):
        for _ in range(made):
            path, name = os.path.split(path)
            folder = walk_plainly(path)
            try:
                os.rmdir(name, dir_fd=folder)
            finally:
                os.close(folder)


def open_source(plan: "Plan", workload: Identity | None, reach: Reach) -> int:
    """Open a folder of the `bind` driver, make what is missing; the caller closes it.

    A drive that is made belongs to the workload's user. Raises Forbidden for one that belongs to
    somebody else unless `reach` permits it, and where the workload rules the folder of all drives;
    OSError.
    """
    name, *below = plan.folder
    root = _open_root(plan, workload)
    fd, made = _descend(root, [name])
    try:
        if made and workload is not None:
            # Nobody else could exchange it: the folder of all drives is ours.
            os.chown(f"/proc/self/fd/{fd}", workload.uid, workload.gid)
    except BaseException:
        os.close(fd)
        raise
    as_whom = workload if workload is not None and reach < Reach.ALL else None
    if workload is not None and os.fstat(fd).st_uid == workload.uid:
        as_whom = workload  # what the user rules is not entered with more rights than the user's
    own = workload if workload is not None and reach < Reach.DRIVES else None
    if own is not None:
        _refuse_drive(fd, name, own)
    with acting_for(as_whom):
        fd, _ = _descend(fd, below)
    if own is not None:
        _refuse_drive(fd, name, own)
    return fd


def _refuse_drive(fd: int, name: str, workload: Identity) -> None:
    """Raise Forbidden, with the descriptor closed, for a folder that is not the workload's."""
    if os.fstat(fd).st_uid != workload.uid:
        os.close(fd)
        raise Forbidden(
            f"{name} does not belong to the workload's user {workload.name}", task=Task.MOUNT_DRIVE
        )


def _open_root(plan: "Plan", workload: Identity | None) -> int:
    if workload is None:
        plan.below.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(plan.below, _FOLDER)
    try:
        return open_trusted_folder(plan.below, make=0o700, workload=workload, only=True)
    except UntrustedFile as error:
        raise Forbidden(f"the folder of all drives: {error}", task=Task.MOUNT_DRIVE) from None
