"""Whose drive it is: what the workload's user may have mounted without the operator's right.

The workload could read none of this by itself: the folder that holds the drives is closed to it,
and the programs that serve a mount have the operator's passwords. So its own is only a folder of
the `bind` driver that belongs to it, and what it could walk to from there.
"""

import os
from contextlib import suppress

from sandkeeper.core.identity import Identity, acting_for
from sandkeeper.core.mounting import bounded
from sandkeeper.errors import Forbidden
from sandkeeper.services.drive_drivers import Plan
from sandkeeper.services.drive_rules import Drive

__all__ = ["ForeignDrive", "check_driver", "check_mounted", "drive_folder"]

LOOK_SECONDS = 2.0
BELOW = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ForeignDrive(Forbidden):
    """The drive is not the workload's own."""


def check_driver(drive: Drive, identity: Identity | None) -> None:
    """Raise ForeignDrive unless a drive of this kind could be the workload's own."""
    if identity is None or drive.driver != "bind":
        raise ForeignDrive(f"a drive of the driver {drive.driver}")


async def check_mounted(drive: Drive | None, path: str, identity: Identity | None) -> None:
    """Raise ForeignDrive unless what is mounted at `path` is the workload's own."""
    if drive is None:
        raise ForeignDrive("a mount that is not this server's")
    check_driver(drive, identity)
    assert identity is not None
    with suppress(OSError):
        if (await bounded(os.stat, path, seconds=LOOK_SECONDS)).st_uid == identity.uid:
            return
    raise ForeignDrive("a drive of another user")


def drive_folder(plan: Plan, identity: Identity | None, *, foreign: bool) -> int:
    """Open the folder to bind, and make what is missing; the descriptor is the caller's.

    No link is followed. Unless `foreign` drives are permitted the drive must belong to `identity`,
    and the way within it is walked, and made, as that user. Raises ForeignDrive, OSError.
    """
    plan.below.mkdir(parents=True, exist_ok=True, mode=0o700)
    name, *parts = plan.folder
    start = os.open(plan.below, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fd = _step(start, name, identity)
    finally:
        os.close(start)
    try:
        if not foreign and (identity is None or os.fstat(fd).st_uid != identity.uid):
            raise ForeignDrive("a drive of another user")
        with acting_for(None if foreign else identity):
            for part in parts:
                below = _step(fd, part, identity if foreign else None)
                os.close(fd)
                fd = below
    except BaseException as error:
        os.close(fd)
        if isinstance(error, PermissionError) and not foreign:
            raise ForeignDrive("a folder that is closed to the workload") from None
        raise
    return fd


def _step(folder: int, name: str, owner: Identity | None) -> int:
    """Open a folder within another; one that had to be made is given to `owner`."""
    created = False
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=folder)
        created = True
    fd = os.open(name, BELOW, dir_fd=folder)
    if created and owner is not None:
        try:
            os.chown(f"/proc/self/fd/{fd}", owner.uid, owner.gid)
        except BaseException:
            os.close(fd)
            raise
    return fd
