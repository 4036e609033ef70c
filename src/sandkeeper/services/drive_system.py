"""Looking at and changing mount points, each look with a time limit."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

from sandkeeper.core.identity import Identity
from sandkeeper.core.mounting import Mount, bind_mount, bounded, mounts, unmount_lazily
from sandkeeper.errors import BadInput, Internal
from sandkeeper.services.drive_drivers import Plan
from sandkeeper.services.drive_owners import drive_folder
from sandkeeper.services.drive_rules import Drive

__all__ = [
    "FUSE_KINDS",
    "LOOK_SECONDS",
    "PROBE_SECONDS",
    "bind",
    "detach",
    "lives",
    "make_folder",
    "mount_at",
    "read_mount",
    "real_path",
    "refuse_foreign",
]

PROBE_SECONDS = 5.0
LOOK_SECONDS = 2.0
STACKED = 8
FUSE_KINDS = frozenset(("fuse.blfs", "fuse.seaweedfs"))


async def lives(path: str, *, seconds: float = PROBE_SECONDS) -> bool:
    """Ask a file system for its size: a question the kernel never answers in its place."""
    try:
        await bounded(os.statvfs, path, seconds=seconds)
    except OSError:
        return False
    return True


async def mount_at(path: str) -> Mount | None:
    """Return the topmost mount on a path."""
    table = await asyncio.to_thread(mounts)
    return next((mount for mount in reversed(table) if mount.path == path), None)


async def real_path(path: str) -> str:
    """Follow links; a path below a mount that hangs is taken as it is written."""
    try:
        return await bounded(os.path.realpath, path, seconds=LOOK_SECONDS)
    except TimeoutError:
        return path
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"Invalid mount path: {reason}") from None


async def refuse_foreign(path: str, mounted: Mount | None) -> None:
    """Raise BadInput unless a FUSE mount of the contract's kinds is there."""
    if mounted is not None:
        if mounted.kind in FUSE_KINDS:
            return
        raise BadInput("Failed to unmount drive: the mount is not a drive")
    try:
        there = await bounded(os.path.lexists, path, seconds=LOOK_SECONDS)
    except TimeoutError:
        there = True
    what = "path is not a mount point" if there else "mount path does not exist"
    raise BadInput(f"Failed to unmount drive: {what}")


async def make_folder(path: str, identity: Identity | None) -> bool:
    """Make a mount point if it is missing, for the workload's user; says whether it was."""
    try:
        return await bounded(_make_folder, path, identity, seconds=PROBE_SECONDS)
    except (NotADirectoryError, FileExistsError):
        raise BadInput("Invalid mount path: it is a file, not a directory") from None
    except OSError as error:
        reason = (error.strerror or str(error) or "no answer").lower()
        raise Internal(f"Failed to mount drive: {path}: {reason}") from None


def _make_folder(path: str, identity: Identity | None) -> bool:
    fd, created = descend("/", path.strip("/").split("/"))
    try:
        if created and identity is not None:
            os.chown(f"/proc/self/fd/{fd}", identity.uid, identity.gid)
    finally:
        os.close(fd)
    return created


def descend(start: str, parts: Sequence[str]) -> tuple[int, bool]:
    """Walk down without following links, make what is missing; the descriptor is the caller's.

    Says also whether the last folder was made. A path was checked as it is now, and whoever owns
    a folder on the way could put a link in its place.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd, created = os.open(start, flags), False
    try:
        for part in parts:
            created = False
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
                created = True
            below = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd, created


def bind(plan: Plan, drive: Drive, identity: Identity | None, foreign: bool) -> None:
    """Bind the drive's folder, made if it is missing; no link is followed on either way.

    Raises ForeignDrive for one that is not the workload's own, unless `foreign` ones are permitted.
    """
    fd = drive_folder(plan, identity, foreign=foreign)
    try:
        target, _ = descend("/", drive.mount_path.strip("/").split("/"))
        try:
            bind_mount(
                f"/proc/self/fd/{fd}",
                drive.mount_path,
                through=f"/proc/self/fd/{target}",
                read_only=drive.read_only,
            )
        finally:
            os.close(target)
    finally:
        os.close(fd)


async def detach(path: str) -> None:
    """Take a mount out of sight, as often as it is stacked there."""
    for _ in range(STACKED):
        try:
            await bounded(unmount_lazily, path, seconds=PROBE_SECONDS)
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
