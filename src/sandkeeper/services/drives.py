"""Drives: mounted, listed, watched, unmounted.

A FUSE mount can stop answering at any time, and a call on it may then never return. So nothing
here touches a mount except through `bounded`; the kernel's table says what is mounted, statfs(2)
with a time limit says whether it lives, and a mount that is dead is ended by killing its program
first: the kernel then fails whatever waits, and the mount point can be detached.
"""

import asyncio
import errno
import os
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandkeeper.core.child import Children
from sandkeeper.core.identity import Identity
from sandkeeper.core.mounting import Mount, bounded, mounts, unmount
from sandkeeper.core.safefile import UntrustedFile, make_private_folder
from sandkeeper.core.statefiles import Damaged
from sandkeeper.errors import Conflict, Internal, SandkeeperError
from sandkeeper.services.daemon import Daemon
from sandkeeper.services.drive_drivers import Plan, driver_named, effective
from sandkeeper.services.drive_records import Record, load_records, record_of, save_records
from sandkeeper.services.drive_rules import (
    Drive,
    checked,
    clean_mount_path,
    refuse_system_folder,
)
from sandkeeper.services.drive_system import (
    FUSE_KINDS,
    LOOK_SECONDS,
    PROBE_SECONDS,
    bind,
    detach,
    lives,
    make_folder,
    mount_at,
    read_mount,
    real_path,
    refuse_foreign,
)
from sandkeeper.services.logs import Log
from sandkeeper.settings import DriveSettings, Environment

__all__ = ["Drives", "MountedDrive"]

READY_SECONDS = 30.0
READY_POLL = 0.1
UNMOUNT_SECONDS = 10.0
FAILURES = 3
BACKOFF_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class MountedDrive:
    """A mounted drive as the list shows it; `status` is healthy, unresponsive or restarting."""

    drive: Drive
    status: str = "healthy"
    restarts: int = 0


@dataclass(slots=True)
class _Entry:
    """A mount of ours."""

    drive: Drive
    daemon: Daemon | None = None
    status: str = "healthy"
    restarts: int = 0
    watch: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Turn:
    """The order of those who change one path, and how many there are."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Drives:
    """All drives; what is ours is remembered over a restart of the server."""

    def __init__(
        self,
        settings: DriveSettings,
        environment: Environment,
        children: Children,
        log: Log,
        *,
        identity: Identity | None,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._children = children
        self._log = log
        self._identity = identity
        self._entries: dict[str, _Entry] = {}
        self._turns: dict[str, _Turn] = {}

    async def start(self) -> None:
        """Take over the mounts that an earlier server left."""
        table = {mount.path for mount in await asyncio.to_thread(mounts)}
        try:
            records = await asyncio.to_thread(load_records, self._settings.folder)
        except (OSError, UntrustedFile, Damaged) as error:
            self._log.warning(f"the list of mounted drives is ignored: {error}")
            return
        for record in records:
            try:
                if record.mount_path in table:
                    self._take_over(record)
            except Exception:  # noqa: BLE001 - one drive must not keep the others away
                why = traceback.format_exc()
                self._log.error(f"drive {record.name!r} is not looked after any more: {why}")

    def _take_over(self, record: Record) -> None:
        entry = _Entry(record.drive)
        self._entries[record.mount_path] = entry
        if record.pid:
            entry.daemon = Daemon.adopt(record.pid, record.born, self._log_path(entry.drive))
            self._watch(entry)

    async def stop(self) -> None:
        """Stop watching; the mounts and their programs stay."""
        for entry in self._entries.values():
            await _cancel(entry.watch)
            if entry.daemon is not None:
                entry.daemon.release()

    async def mount(self, drive: Drive) -> Drive:
        """Mount a drive and return it as it is mounted; the same one again changes nothing.

        Raises BadInput, Conflict when something else is mounted there, Internal when it fails.
        """
        wanted = effective(
            checked(drive), self._environment.for_children(), self._settings, self._identity
        )
        path = await self._located(wanted.mount_path)
        refuse_system_folder(path, str(self._settings.folder), str(self._settings.root))
        wanted = replace(wanted, mount_path=path)
        driver = driver_named(wanted.driver)
        async with self._turn(path):
            if await self._is_there(wanted):
                return wanted
            plan = driver(wanted, self._environment.for_children(), self._settings)
            created = await make_folder(path, self._identity)
            try:
                daemon = await self._bring_up(wanted, plan)
            except BaseException:
                if created:
                    with suppress(OSError):
                        os.rmdir(path)
                raise
            entry = _Entry(wanted, daemon)
            self._entries[path] = entry
            await self._save()
            if daemon is not None:
                self._watch(entry)
        return wanted

    async def unmount(self, mount_path: str) -> str:
        """Unmount a drive, also one that hangs; returns its path.

        Raises BadInput for what is no drive, Conflict while it is in use, Internal otherwise.
        """
        path = clean_mount_path(mount_path)
        if path not in self._entries and await mount_at(path) is None:
            path = await self._located(path)
        async with self._turn(path):
            entry = self._entries.get(path)
            mounted = await mount_at(path)
            if entry is None:
                await refuse_foreign(path, mounted)
            elif mounted is None:
                await self._forget(entry)
                return path
            await _cancel(entry.watch if entry else None)
            try:
                await self._take_down(path, entry)
            except SandkeeperError:
                if entry is not None and entry.daemon is not None:
                    self._watch(entry)
                raise
            if entry is not None:
                await self._forget(entry)
        return path

    async def list(self) -> list[MountedDrive]:
        """Return the mounted drives: ours, and the contract's FUSE types whoever mounted them."""
        table = {mount.path: mount for mount in await asyncio.to_thread(mounts)}
        found = [
            MountedDrive(entry.drive, entry.status, entry.restarts)
            for path, entry in sorted(self._entries.items())
            if path in table
        ]
        for path, mount in sorted(table.items()):
            if mount.kind in FUSE_KINDS and path not in self._entries:
                found.append(MountedDrive(self._read(mount)))
        return found

    async def _is_there(self, wanted: Drive) -> bool:
        """Say whether exactly this is mounted and lives; a dead one is taken away."""
        path = wanted.mount_path
        mounted = await mount_at(path)
        entry = self._entries.get(path)
        if mounted is None:
            if entry is not None:
                await self._forget(entry)
            return False
        known = entry.drive if entry else None
        if known is None and mounted.kind in FUSE_KINDS:
            seen = self._read(mounted)
            known = replace(
                wanted,
                name=seen.name,
                drive_path=seen.drive_path,
                read_only=seen.read_only,
            )
        if known != wanted:
            raise Conflict(f"Failed to mount drive: mount path already in use: {path}")
        if await lives(path):
            return True
        if entry is not None:
            await _cancel(entry.watch)
        await self._take_down(path, entry)
        if entry is not None:
            await self._forget(entry)
        return False

    async def _bring_up(self, drive: Drive, plan: Plan) -> Daemon | None:
        """Mount; returns the program behind it. Leaves nothing behind when it fails."""
        if not plan.argv:
            try:
                await bounded(bind, plan, drive, self._identity, seconds=READY_SECONDS)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise Internal(f"Failed to mount drive: {reason}") from None
            return None
        try:
            await asyncio.to_thread(make_private_folder, self._settings.folder)
            daemon = await Daemon.start(
                self._children, plan.argv, self._environment.for_children(), self._log_path(drive)
            )
        except (OSError, UntrustedFile) as error:
            raise Internal(f"Failed to mount drive: {error}") from None
        try:
            await self._ready(drive, daemon)
        except BaseException:
            await daemon.kill()
            await detach(drive.mount_path)
            raise
        return daemon

    async def _ready(self, drive: Drive, daemon: Daemon) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if await mount_at(drive.mount_path) is not None:
                with suppress(OSError):
                    await bounded(os.listdir, drive.mount_path, seconds=PROBE_SECONDS)
                    return
            if await daemon.ends_within(READY_POLL):
                reason = daemon.tail() or "without a word"
                raise Internal(f"Failed to mount drive: {drive.driver} ended: {reason}")
        raise Internal(f"Failed to mount drive: not ready within {READY_SECONDS:g} s")

    async def _take_down(self, path: str, entry: _Entry | None) -> None:
        """Unmount in good order if it lives, else by force; raises Conflict when it is in use."""
        daemon = entry.daemon if entry else None
        fuse = daemon is not None or entry is None
        if not fuse or await lives(path, seconds=LOOK_SECONDS):
            try:
                await bounded(unmount, path, seconds=UNMOUNT_SECONDS)
            except TimeoutError:
                pass
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise Conflict("Failed to unmount drive: the drive is in use") from None
                if error.errno != errno.EINVAL:  # gone meanwhile
                    reason = (error.strerror or str(error)).lower()
                    raise Internal(f"Failed to unmount drive: {reason}") from None
            else:
                if daemon is not None and not await daemon.ends_within(UNMOUNT_SECONDS):
                    await daemon.kill()
                return
        if daemon is not None:
            await daemon.kill()
        await detach(path)
        if await mount_at(path) is not None:
            raise Internal("Failed to unmount drive: it cannot be detached")

    def _watch(self, entry: _Entry) -> None:
        entry.watch = asyncio.create_task(self._watching(entry))

    async def _watching(self, entry: _Entry) -> None:
        """Bring the mount up again whenever its program ends or stops answering."""
        failures = 0
        pause = 1.0
        while True:
            ended = entry.daemon is None or await entry.daemon.ends_within(
                self._settings.probe_seconds
            )
            if not ended:
                assert entry.daemon is not None
                await asyncio.to_thread(entry.daemon.trim_log)
                failures = 0 if await lives(entry.drive.mount_path) else failures + 1
                entry.status = "unresponsive" if failures else "healthy"
                pause = pause if failures else 1.0
                if failures < FAILURES:
                    continue
            what = "ended" if ended else "does not answer"
            self._log.warning(
                f"drive {entry.drive.name} at {entry.drive.mount_path}: "
                f"{entry.drive.driver} {what}; mounting again"
            )
            failures = 0
            if not await self._again(entry):
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_SECONDS)

    async def _again(self, entry: _Entry) -> bool:
        entry.status = "restarting"
        drive = entry.drive
        if entry.daemon is not None:
            await entry.daemon.kill()
            entry.daemon = None
        await detach(drive.mount_path)
        try:
            environment = self._environment.for_children()
            plan = driver_named(drive.driver)(drive, environment, self._settings)
            entry.daemon = await self._bring_up(drive, plan)
        except SandkeeperError as error:
            self._log.error(f"drive {drive.name} at {drive.mount_path}: {error}")
            return False
        entry.status = "healthy"
        entry.restarts += 1
        await self._save()
        return True

    async def _located(self, path: str) -> str:
        return path if path in self._entries else await real_path(path)

    def _read(self, mount: Mount) -> Drive:
        return read_mount(mount, self._environment.get("BL_WORKSPACE_ID"))

    @asynccontextmanager
    async def _turn(self, path: str) -> AsyncIterator[None]:
        """Let one at a time change a path; nothing is kept for paths that nobody changes."""
        turn = self._turns.setdefault(path, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                self._turns.pop(path, None)

    def _log_path(self, drive: Drive) -> Path:
        return self._settings.folder / (
            drive.mount_path.strip("/").replace("/", "-")[-100:] + ".log"
        )

    async def _forget(self, entry: _Entry) -> None:
        await _cancel(entry.watch)
        self._entries.pop(entry.drive.mount_path, None)
        if entry.daemon is not None:
            await entry.daemon.kill()
        await self._save()

    async def _save(self) -> None:
        records = [
            record_of(
                entry.drive,
                entry.daemon.pid if entry.daemon else 0,
                entry.daemon.born if entry.daemon else 0,
            )
            for entry in self._entries.values()
        ]
        try:
            await asyncio.to_thread(save_records, self._settings.folder, records)
        except (OSError, UntrustedFile) as error:
            self._log.error(f"the list of mounted drives is not saved: {error}")


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and task is not asyncio.current_task():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
