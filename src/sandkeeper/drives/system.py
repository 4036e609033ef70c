"""Looking at and changing mount points, each look with a time limit."""

import asyncio

import msgspec

from sandkeeper.drives.rules import Drive
from sandkeeper.errors import BadInput, Task, reason_of
from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.linux.mounts import Mount, bounded, mounts, open_mount, unmount
from sandkeeper.linux.paths import useros as os

__all__ = [
    "FUSE_KINDS",
    "LOOK_SECONDS",
    "PROBE_SECONDS",
    "Held",
    "detach",
    "lives",
    "mount_at",
    "mount_of",
    "read_mount",
    "real_path",
    "refuse_foreign",
]

PROBE_SECONDS = 5.0
LOOK_SECONDS = 2.0
STACKED = 8
FUSE_KINDS = frozenset(("fuse.blfs", "fuse.seaweedfs"))


class Held(msgspec.Struct, frozen=True):
    """A mount as it was made: where, and its id (0 when that is not known)."""

    path: str
    mount_id: int


async def lives(held: Held, *, seconds: float = PROBE_SECONDS) -> bool:
    """Ask a file system for its size: a question the kernel never answers in its place."""
    try:
        await bounded(_ask_size, held, seconds=seconds)
    except OSError:
        return False
    return True


def _ask_size(held: Held) -> None:
    fd = open_mount(held.path, held.mount_id)
    try:
        os.fstatvfs(fd)
    finally:
        os.close(fd)


async def mount_of(held: Held) -> Mount | None:
    """Return a mount as the table has it now, wherever its folders were moved to."""
    if not held.mount_id:
        return await mount_at(held.path)
    table = await asyncio.to_thread(mounts)
    return next((mount for mount in table if mount.id == held.mount_id), None)


async def mount_at(path: str) -> Mount | None:
    """Return the topmost mount on a path."""
    table = await asyncio.to_thread(mounts)
    return next((mount for mount in reversed(table) if mount.path == path), None)


async def real_path(path: str, workload: Identity | None) -> str:
    """Follow links as `workload` sees them; below a mount that hangs a path is taken as written."""

    def follow() -> str:
        with acting_for(workload):
            return os.path.realpath(path)

    try:
        return await bounded(follow, seconds=LOOK_SECONDS)
    except TimeoutError:
        return path
    except OSError as error:
        reason = reason_of(error)
        raise BadInput(reason, task=Task.ACCEPT_MOUNT_PATH) from None


async def refuse_foreign(path: str, mounted: Mount | None, workload: Identity | None) -> None:
    """Raise BadInput unless a FUSE mount of the contract's kinds is there.

    What is not there is told as `workload` sees it.
    """

    def is_there() -> bool:
        with acting_for(workload):
            return os.path.lexists(path)

    if mounted is not None:
        if mounted.kind in FUSE_KINDS:
            return
        raise BadInput("the mount is not a drive", task=Task.UNMOUNT_DRIVE)
    try:
        there = await bounded(is_there, seconds=LOOK_SECONDS)
    except TimeoutError:
        there = True
    what = "path is not a mount point" if there else "mount path does not exist"
    raise BadInput(what, task=Task.UNMOUNT_DRIVE)


async def detach(path: str, wanted: int = 0) -> None:
    """Take a mount out of sight: the one with the id `wanted`, else as many as are stacked."""

    def away() -> None:
        unmount(path, wanted, lazy=True)

    for _ in range(1 if wanted else STACKED):
        try:
            await bounded(away, seconds=PROBE_SECONDS)
        except OSError:
            return


def read_mount(mount: Mount, workspace: str) -> Drive:
    """Read a drive out of a line of the table: `host:port:/buckets/drv-{name}-{workspace}{path}`.

    The drive's path may itself contain colons.
    """
    _, _, rest = mount.source.partition(":/buckets/")
    infra, slash, below = rest.partition("/")
    name = infra.removeprefix("drv-")
    if workspace:
        name = name.removesuffix("-" + workspace.lower())
    return Drive(name, mount.path, (slash + below).rstrip("/") or "/", mount.read_only)
