"""Bringing a drive up at its mount point, and taking it down again.

What a mount shows comes up at a place of our own first, in the state folder, which nobody else can
enter. There its rights are taken from it, and from there it is shown at the mount point, by the
descriptor of that. So no program that acts for root resolves a path that the workload can change,
and nobody ever sees the drive with more rights than it keeps. Without a workload's user a FUSE
program mounts on the mount point itself, as the contract's command line says.
"""

import asyncio
import errno
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from sandkeeper.drives.points import Point, open_point, open_source
from sandkeeper.drives.rules import Drive, Reach
from sandkeeper.drives.system import (
    LOOK_SECONDS,
    PROBE_SECONDS,
    Held,
    detach,
    lives,
    mount_at,
    mount_of,
)
from sandkeeper.errors import (
    BadInput,
    Conflict,
    Forbidden,
    Internal,
    SandkeeperError,
    Task,
    reason_of,
)
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.daemon import Daemon
from sandkeeper.linux.children.programs import environment_for_root, refuse_program
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.mounts import (
    attach,
    bind_mount,
    bounded,
    mounts,
    restrict,
    unmount,
    unmount_staged,
)
from sandkeeper.linux.paths.statefiles import UntrustedFile, make_private_folder
from sandkeeper.settings import DriveSettings, Environment

if TYPE_CHECKING:
    from sandkeeper.drives.drivers import Plan

__all__ = ["Mounter", "Up"]

READY_SECONDS = 30.0
READY_POLL = 0.1
UNMOUNT_SECONDS = 10.0
STAGING = "staging"


class Up(msgspec.Struct, frozen=True):
    """A mount that stands: the program behind it, its id, how many folders were made for it."""

    daemon: Daemon | None
    mount_id: int
    made: int


class Mounter:
    """Mounts and unmounts, as `workload` where there is one; keeps nothing."""

    def __init__(
        self,
        settings: DriveSettings,
        environment: Environment,
        children: Children,
        workload: Identity | None,
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.workload = workload
        self._children = children

    def acting(self, reach: Reach) -> Identity | None:
        """Return who mount points are opened as; None for the server itself."""
        return self.workload if reach < Reach.ALL else None

    @property
    def staging(self) -> str:
        """The folder of places to bring mounts up at, as the kernel's table names it."""
        return os.path.realpath(self.settings.folder / STAGING)

    async def clear(self) -> None:
        """Take away what a killed server was about to bring up."""
        folder = self.staging
        with suppress(OSError):
            for name in await asyncio.to_thread(os.listdir, folder):
                with suppress(TimeoutError):
                    await bounded(unmount_staged, f"{folder}/{name}", seconds=PROBE_SECONDS)

    async def bring_up(self, drive: Drive, reach: Reach) -> Up:
        """Mount a drive; leaves nothing behind when it fails.

        Raises BadInput, Forbidden, Internal.
        """
        from sandkeeper.drives.drivers import driver_named  # few have drives

        told = self.environment.for_children()
        env = await asyncio.to_thread(environment_for_root, told, self.workload)
        told["PATH"] = env.get("PATH", "")
        plan = driver_named(drive.driver)(drive, told, self.settings)
        point = await self._open_point(drive, reach)
        try:
            if plan.argv and self.workload is None:
                daemon = await self._start(plan, drive, env, drive.mount_path)
                mounted = await mount_at(drive.mount_path)
                return Up(daemon, mounted.id if mounted else 0, point.made)
            async with self._stage() as staged:
                shown = driver_named(drive.driver)(
                    replace(drive, mount_path=staged), told, self.settings
                )
                return await self._bring_up_at(staged, shown, drive, reach, point, env)
        except BaseException:
            point.close()
            with suppress(TimeoutError):
                await bounded(point.undo, seconds=PROBE_SECONDS)
            raise
        finally:
            point.close()

    async def _open_point(self, drive: Drive, reach: Reach) -> Point:
        path, workload = drive.mount_path, self.acting(reach)
        try:
            return await bounded(open_point, path, workload, seconds=PROBE_SECONDS)
        except OSError as error:
            reason = reason_of(error) or "no answer"
            if isinstance(error, NotADirectoryError | FileExistsError):
                raise BadInput(
                    "it is a file, not a directory", task=Task.ACCEPT_MOUNT_PATH
                ) from None
            if error.errno == errno.ELOOP:
                raise BadInput(reason, task=Task.ACCEPT_MOUNT_PATH) from None
            if workload is not None and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise Forbidden(
                    f"{path}: {reason} for the workload's user {workload.name}",
                    task=Task.ACCEPT_MOUNT_PATH,
                ) from None
            raise Internal(f"{path}: {reason}", task=Task.MOUNT_DRIVE) from None

    @asynccontextmanager
    async def _stage(self) -> AsyncIterator[str]:
        """Give a place of our own to bring a mount up at; nothing is left of it afterwards."""
        folder = self.staging
        place = f"{folder}/{secrets.token_hex(8)}"
        try:
            await asyncio.to_thread(make_private_folder, Path(folder))
            await asyncio.to_thread(os.mkdir, place, 0o700)
        except (OSError, UntrustedFile) as error:
            raise Internal(str(error), task=Task.MOUNT_DRIVE) from None
        try:
            yield place
        finally:
            with suppress(TimeoutError):
                await bounded(unmount_staged, place, seconds=PROBE_SECONDS)

    async def _bring_up_at(
        self,
        staged: str,
        plan: "Plan",
        drive: Drive,
        reach: Reach,
        point: Point,
        env: Mapping[str, str],
    ) -> Up:
        daemon = await self._start(plan, drive, env, staged) if plan.argv else None
        try:
            made = await bounded(
                *(self._show, plan, drive, reach, staged, point), seconds=READY_SECONDS
            )
        except BaseException as error:
            if daemon is not None:
                await daemon.kill()
            if isinstance(error, OSError):
                reason = reason_of(error) or "no answer"
                raise Internal(reason, task=Task.MOUNT_DRIVE) from None
            raise
        return Up(daemon, made, point.made)

    def _show(self, plan: "Plan", drive: Drive, reach: Reach, staged: str, point: Point) -> int:
        """Bind a folder to the staged place if no program serves one; show that at the point."""
        if not plan.argv:
            source = open_source(plan, self.workload, reach)
            try:
                bind_mount(source, staged)
            finally:
                os.close(source)
        apart = self.workload is not None
        if drive.read_only or apart:
            restrict(staged, read_only=drive.read_only, no_privilege=apart)
        return attach(staged, point.folder.number)

    async def _start(
        self, plan: "Plan", drive: Drive, env: Mapping[str, str], where: str
    ) -> Daemon:
        """Start the program of a FUSE drive and wait until it has mounted on `where`."""
        try:
            await asyncio.to_thread(make_private_folder, self.settings.folder)
            await asyncio.to_thread(refuse_program, plan.argv[0], self.workload)
            daemon = await Daemon.start(self._children, plan.argv, env, self.log_path(drive))
        except (OSError, UntrustedFile) as error:
            raise Internal(str(error), task=Task.MOUNT_DRIVE) from None
        try:
            await _ready(drive, daemon, where)
        except BaseException:
            await daemon.kill()
            await detach(where)
            raise
        return daemon

    def log_path(self, drive: Drive) -> Path:
        """Return where the program of a drive writes."""
        name = drive.mount_path.strip("/").replace("/", "-")[-100:] + ".log"
        return self.settings.folder / name

    async def take_down(self, held: Held, daemon: Daemon | None, *, fuse: bool) -> None:
        """Unmount in good order if it lives, else by force; raises Conflict when it is in use."""
        path = held.path
        if not fuse or await lives(held, seconds=LOOK_SECONDS):
            try:
                await bounded(unmount, path, held.mount_id, seconds=UNMOUNT_SECONDS)
            except TimeoutError:
                pass
            except OSError as error:
                if error.errno != errno.EINVAL:  # gone meanwhile
                    raise _not_unmounted(error) from None
            else:
                if daemon is not None and not await daemon.ends_within(UNMOUNT_SECONDS):
                    await daemon.kill()
                return
        if daemon is not None:
            await daemon.kill()
        await detach(path, held.mount_id)
        if await mount_of(held) is not None:
            raise Internal("it cannot be detached", task=Task.UNMOUNT_DRIVE)


def _not_unmounted(error: OSError) -> SandkeeperError:
    if error.errno == errno.EBUSY:
        return Conflict("the drive is in use", task=Task.UNMOUNT_DRIVE)
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
        return Conflict("the way to it changes", task=Task.UNMOUNT_DRIVE)
    return Internal(reason_of(error), task=Task.UNMOUNT_DRIVE)


async def _ready(drive: Drive, daemon: Daemon, where: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if any(mount.path == where for mount in await asyncio.to_thread(mounts)):
            with suppress(OSError):
                await bounded(os.listdir, where, seconds=PROBE_SECONDS)
                return
        if await daemon.ends_within(READY_POLL):
            reason = daemon.tail() or "without a word"
            raise Internal(f"{drive.driver} ended: {reason}", task=Task.MOUNT_DRIVE)
    raise Internal(f"not ready within {READY_SECONDS:g} s", task=Task.MOUNT_DRIVE)
