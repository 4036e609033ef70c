"""Drives: mounted, listed, watched, unmounted.

A FUSE mount can stop answering at any time, and a call on it may then never return. So nothing
here touches a mount except through `bounded`; the kernel's table says what is mounted, statfs(2)
with a time limit says whether it lives, and a mount that is dead is ended by killing its program
first: the kernel then fails whatever waits, and the mount point can be detached.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
from msgspec.structs import replace

from sandkeeper.drives.mounting import Mounter, Up
from sandkeeper.drives.points import remove_made
from sandkeeper.drives.records import Record, load_records, record_of, save_records
from sandkeeper.drives.rules import (
    Drive,
    Reach,
    checked,
    clean_mount_path,
    own_places,
    refuse_beyond_reach,
    refuse_system_folder,
)
from sandkeeper.drives.system import (
    FUSE_KINDS,
    PROBE_SECONDS,
    Held,
    detach,
    lives,
    mount_at,
    mount_of,
    read_mount,
    real_path,
    refuse_foreign,
)
from sandkeeper.errors import Conflict, Forbidden, SandkeeperError, Task
from sandkeeper.linux.children.daemon import Daemon
from sandkeeper.linux.mounts import Mount, bounded, mounts
from sandkeeper.linux.paths.statefiles import Damaged, UntrustedFile
from sandkeeper.log.lines import Log

__all__ = ["Drives", "MountedDrive"]

FAILURES = 3
MAX_DRIVES = 256
"""How many there are at once: everybody who looks at mounts reads all of them."""
BACKOFF_SECONDS = 60.0


class MountedDrive(msgspec.Struct, frozen=True):
    """A mounted drive as the list shows it; `status` is healthy, unresponsive or restarting."""

    drive: Drive
    status: str = "healthy"
    restarts: int = 0


class _Entry(msgspec.Struct):
    """A mount of ours, and whose word it was."""

    drive: Drive
    daemon: Daemon | None = None
    mount_id: int = 0
    made: int = 0
    reach: Reach = Reach.ALL
    status: str = "healthy"
    restarts: int = 0
    watch: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, drive: Drive, reach: Reach, up: Up) -> "_Entry":
        return cls(drive, up.daemon, up.mount_id, up.made, reach)

    @property
    def held(self) -> Held:
        """Where it was mounted, and what."""
        return Held(self.drive.mount_path, self.mount_id)

    @property
    def record(self) -> Record:
        """What is remembered of it."""
        pid, born = (self.daemon.pid, self.daemon.born) if self.daemon else (0, 0)
        more = {"mount_id": self.mount_id, "made": self.made, "reach": self.reach}
        return record_of(self.drive, pid=pid, born=born, **more)


class _Turn(msgspec.Struct):
    """The order of those who change one path, and how many there are."""

    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    users: int = 0


class Drives:
    """All drives; what is ours is remembered over a restart of the server."""

    def __init__(self, mounter: Mounter, log: Log) -> None:
        self._mounter = mounter
        self._settings = mounter.settings
        self._environment = mounter.environment
        self._identity = mounter.workload
        self._log = log
        self._entries: dict[str, _Entry] = {}
        self._turns: dict[str, _Turn] = {}

    async def start(self) -> None:
        """Take over the mounts that an earlier server left."""
        await self._mounter.clear()
        table = {mount.path: mount.id for mount in await asyncio.to_thread(mounts)}
        try:
            records = await asyncio.to_thread(load_records, self._settings.folder)
        except (OSError, UntrustedFile, Damaged) as error:
            self._log.warning(f"the list of mounted drives is ignored: {error}")
            return
        for record in records:
            try:
                self._take_over(record, table.get(record.mount_path))
            except Exception:  # noqa: BLE001 - one drive must not keep the others away
                why = traceback.format_exc()
                self._log.error(f"drive {record.name!r} is not looked after any more: {why}")

    def _take_over(self, record: Record, there: int | None) -> None:
        if there is None or (record.mount_id and record.mount_id != there):
            return
        entry = _Entry(record.drive, None, there, record.made, record.reach)
        self._entries[record.mount_path] = entry
        if record.pid:
            log = self._mounter.log_path(entry.drive)
            entry.daemon = Daemon.adopt(record.pid, record.born, log)
            self._watch(entry)

    async def stop(self) -> None:
        """Stop watching; the mounts and their programs stay."""
        for entry in self._entries.values():
            await _cancel(entry.watch)
            if entry.daemon is not None:
                entry.daemon.release()

    async def mount(self, drive: Drive, reach: Reach = Reach.ALL) -> Drive:
        """Mount a drive and return it as it is mounted; the same one again changes nothing.

        `reach` is how far the caller's word goes; without a workload's user it counts for nothing.
        Raises BadInput, Forbidden, Conflict when something else is mounted there, Internal when it
        fails.
        """
        from sandkeeper.drives.drivers import driver_named, effective  # few have drives

        asked = checked(drive)
        wanted = effective(asked, self._environment.for_children(), self._settings, self._identity)
        driver_named(wanted.driver)
        if self._identity is not None:
            refuse_beyond_reach(wanted, asked, reach, self._identity)
        path = await self._located(wanted.mount_path, reach)
        own = (self._settings.folder.parent, self._settings.root)
        refuse_system_folder(path, *map(str, own), *own_places())
        wanted = replace(wanted, mount_path=path)
        async with self._turn(path):
            if await self._is_there(wanted, reach):
                return wanted
            if len(self._entries) >= MAX_DRIVES and reach < Reach.ALL:
                raise Conflict(f"there are {MAX_DRIVES} already", task=Task.MOUNT_DRIVE)
            entry = _Entry.of(wanted, reach, await self._mounter.bring_up(wanted, reach))
            self._entries[path] = entry
            await self._save()
            if entry.daemon is not None:
                self._watch(entry)
        return wanted

    async def unmount(self, mount_path: str, reach: Reach = Reach.ALL) -> str:
        """Unmount a drive, also one that hangs; returns its path.

        Raises BadInput for what is no drive, Forbidden for what is beyond the caller's reach,
        Conflict while it is in use, Internal otherwise.
        """
        path = clean_mount_path(mount_path)
        if path not in self._entries and await mount_at(path) is None:
            path = await self._located(path, reach)
        async with self._turn(path):
            entry = self._entries.get(path)
            mounted = await (mount_of(entry.held) if entry else mount_at(path))
            if entry is None:
                await refuse_foreign(path, mounted, self._mounter.acting(reach))
            self._refuse_others(path, entry, reach)
            if mounted is None:
                if entry is not None:
                    await self._forget(entry)
                return path
            await _cancel(entry.watch if entry else None)
            try:
                await self._take_down(mounted, entry)
            except SandkeeperError:
                if entry is not None and entry.daemon is not None:
                    self._watch(entry)
                raise
            if entry is not None:
                await self._forget(entry)
        return path

    def _refuse_others(self, path: str, entry: _Entry | None, reach: Reach) -> None:
        """Keep the workload's user from what was mounted on another's word."""
        others = entry is None or entry.reach is Reach.ALL
        if self._identity is not None and others and reach < Reach.DRIVES:
            raise Forbidden(
                f"{path} was not mounted for the workload's user: "
                "the operator unmounts it, or permits drives",
                task=Task.UNMOUNT_DRIVE,
            )

    async def _take_down(self, mounted: Mount, entry: _Entry | None) -> None:
        daemon = entry.daemon if entry else None
        fuse = entry is None or daemon is not None
        await self._mounter.take_down(Held(mounted.path, mounted.id), daemon, fuse=fuse)

    def count(self) -> int:
        """Return how many drives are to be mounted."""
        return len(self._entries)

    async def list(self) -> list[MountedDrive]:
        """Return the mounted drives: ours, and the contract's FUSE types whoever mounted them."""
        table = await asyncio.to_thread(mounts)
        there = {mount.id for mount in table}
        found = [
            MountedDrive(entry.drive, entry.status, entry.restarts)
            for _, entry in sorted(self._entries.items())
            if entry.mount_id in there
        ]
        ours = {entry.mount_id for entry in self._entries.values()}
        for path, mount in sorted({mount.path: mount for mount in table}.items()):
            staged = path.startswith(self._mounter.staging)
            if mount.kind in FUSE_KINDS and mount.id not in ours and not staged:
                found.append(MountedDrive(self._read(mount)))
        return found

    async def _is_there(self, wanted: Drive, reach: Reach) -> bool:
        """Say whether exactly this is mounted and lives; a dead one is taken away."""
        path = wanted.mount_path
        entry = self._entries.get(path)
        if entry is not None and await mount_of(entry.held) is None:
            await self._forget(entry)
            entry = None
        mounted = await mount_at(path)
        if mounted is None and entry is None:
            return False
        if entry is not None and (mounted is None or mounted.id != entry.mount_id):
            # Its folders were moved away with it, or something else lies on it.
            raise Conflict(f"mount path already in use: {path}", task=Task.MOUNT_DRIVE)
        assert mounted is not None
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
            raise Conflict(f"mount path already in use: {path}", task=Task.MOUNT_DRIVE)
        if await lives(Held(path, mounted.id)):
            return True
        self._refuse_others(path, entry, reach)
        if entry is not None:
            await _cancel(entry.watch)
        await self._take_down(mounted, entry)
        if entry is not None:
            await self._forget(entry)
        return False

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
                failures = 0 if await lives(entry.held) else failures + 1
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
        await detach(drive.mount_path, entry.mount_id)
        await self._remove_made(entry)
        try:
            up = await self._mounter.bring_up(drive, entry.reach)
            entry.daemon, entry.mount_id, entry.made = up.daemon, up.mount_id, up.made
        except SandkeeperError as error:
            self._log.error(f"drive {drive.name} at {drive.mount_path}: {error}")
            return False
        entry.status = "healthy"
        entry.restarts += 1
        await self._save()
        return True

    async def _located(self, path: str, reach: Reach) -> str:
        if path in self._entries:
            return path
        return await real_path(path, self._mounter.acting(reach))

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

    async def _forget(self, entry: _Entry) -> None:
        await _cancel(entry.watch)
        self._entries.pop(entry.drive.mount_path, None)
        if entry.daemon is not None:
            await entry.daemon.kill()
        await self._remove_made(entry)
        await self._save()

    async def _remove_made(self, entry: _Entry) -> None:
        """Remove the folders that were made for a mount, as far as they are empty."""
        path, made, reach = entry.drive.mount_path, entry.made, entry.reach
        entry.made = 0
        with suppress(OSError):
            acting = self._mounter.acting(reach)
            await bounded(remove_made, path, made, acting, seconds=PROBE_SECONDS)

    async def _save(self) -> None:
        records = [entry.record for entry in self._entries.values()]
        try:
            await asyncio.to_thread(save_records, self._settings.folder, records)
        except (OSError, UntrustedFile) as error:
            self._log.error(f"the list of mounted drives is not saved: {error}")


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and task is not asyncio.current_task():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
