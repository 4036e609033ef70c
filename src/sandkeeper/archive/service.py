"""The archive of the machine: exports, the freeze they leave, and the restore at the start.

One thing at a time: an export or a restore. What blocks runs in a thread of its own, which a stop
of the server does not wait for.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from sandkeeper.archive.baseline import FOLDER, BaselineRecorder, was_restored
from sandkeeper.archive.freeze import EXPORT, INTERRUPTED, Freeze
from sandkeeper.archive.job import Clock, Exporting, Job, Restored, as_told
from sandkeeper.archive.kept import Kept
from sandkeeper.archive.workload import Workload
from sandkeeper.errors import Conflict, Internal, SandkeeperError, Unavailable
from sandkeeper.linux.mounts import bounded
from sandkeeper.log.lines import Log
from sandkeeper.processes.spec import SavedProcess
from sandkeeper.settings import Settings

if TYPE_CHECKING:
    from sandkeeper.archive.export import Manifest, Packed
    from sandkeeper.archive.pristine import Pristine
    from sandkeeper.files.tar.unpacking import Temporary

__all__ = ["Archive", "Exported"]

WORK_SECONDS = 3 * 3600.0
SETTLE_SECONDS = 5.0


class Exported(msgspec.Struct):
    """A finished export; `seconds` it took. A dry run has its `changes`: close it when told."""

    manifest: "Manifest"
    size: int
    seconds: float
    stopped: list[str]
    uploaded: bool
    packed: "Packed | None" = None


class Archive:
    """Event loop's thread only; `leaving` says whether another server is to take our place."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        workload: Workload,
        recorder: BaselineRecorder,
        temporary: "Temporary",
        leaving: Callable[[], bool],
    ) -> None:
        self._settings = settings.archive
        self._state_dir = settings.state_dir
        self._stop_children = settings.stop_children
        self._folder = settings.state_dir / "archive"
        self._log = log
        self._workload = workload
        self._recorder = recorder
        self._runtime = recorder.runtime
        self._temporary = temporary
        self._leaving = leaving
        self.freeze = Freeze(settings.archive.root, settings.state_dir)
        self.exporting: Exporting | None = None
        self.restoring: Restored | None = None
        self.kept = Kept()
        self._clock = Clock()
        self._task: asyncio.Task[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether an export or a restore runs."""
        return (self.exporting is not None and self.exporting.state == "running") or (
            self.restoring is not None and not self.restoring.finished_at
        )

    # Exports

    async def export(self, job: Job) -> Exported:
        """Export and wait for the end, which comes whether or not somebody still waits.

        Raises Conflict when something runs, BadInput, Internal.
        """
        task = await self.begin(job)
        return await asyncio.shield(task)

    async def begin(self, job: Job) -> "asyncio.Task[Exported]":
        """Start an export; raises as `export` for what can be told before anything is stopped."""
        self._check_free()
        self.kept.drop()
        self.exporting = progress = Exporting()
        self._clock = Clock()
        try:
            packed, pristine = await bounded(self._prepare, job, seconds=WORK_SECONDS)
        except Exception as error:  # noqa: BLE001 - as those of the export itself
            told = as_told(error, self._log)
            await self._failed(job, progress, told)
            await bounded(self._abandon, job, seconds=WORK_SECONDS)
            raise told from None
        self._task = task = asyncio.ensure_future(self._export(job, packed, pristine, progress))
        task.add_done_callback(_retrieved)
        return task

    def _check_free(self) -> None:
        if self.busy:
            raise Conflict("an export or a restore is running")
        if self._leaving():
            raise Unavailable("the server is being replaced by another version")

    def _prepare(self, job: Job) -> "tuple[Packed, Pristine]":
        """Do all that can fail while everything still runs."""
        from sandkeeper.archive.export import Packed
        from sandkeeper.archive.pristine import choose

        packed = Packed(self._settings.root, self._folder, self._log)
        try:
            if not (job.dry_run or job.keep):
                packed.check(job, self._clock, self._settings.retries)
            pristine = choose(
                self._settings.root,
                self._state_dir,
                device=job.image_device,
                mount_point=job.image_mount_point,
                image=self._settings.image,
                required=self._settings.baseline == "required",
            )
        except BaseException:
            packed.close()
            raise
        return packed, pristine

    async def _export(
        self, job: Job, packed: "Packed", pristine: "Pristine", progress: Exporting
    ) -> Exported:
        began = time.monotonic()
        stopping = not job.dry_run and self.freeze.active
        try:
            try:
                if not job.dry_run:
                    await self._quiesce(job)
                await bounded(self._fill, job, packed, pristine, seconds=WORK_SECONDS)
            finally:
                await asyncio.to_thread(pristine.close)
            progress.size = packed.size()
            if not (job.dry_run or job.keep):
                await self._send(job, packed, progress)
        except asyncio.CancelledError:
            packed.close()
            saved = self.freeze.processes if stopping and not progress.uploaded else []
            await self._failed(job, progress, Internal("the server is stopping"))
            if saved and not self._stop_children:
                await self.freeze.keep(saved)
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, and logged if unforeseen
            packed.close()
            told = as_told(error, self._log)
            saved = self.freeze.processes if stopping and not progress.uploaded else []
            await self._failed(job, progress, told)
            if stopping and not progress.uploaded and self.freeze.active:
                await self._begin_again(saved)
            await bounded(self._abandon, job, seconds=WORK_SECONDS)
            raise told from None
        progress.end()
        assert packed.manifest is not None
        seconds = time.monotonic() - began
        if job.keep:
            self.kept.put(packed)
        elif not job.dry_run:
            packed.close()
        return Exported(
            packed.manifest,
            progress.size,
            seconds,
            [] if job.dry_run else list(self.freeze.stopped),
            progress.uploaded,
            packed if job.dry_run else None,
        )

    async def _quiesce(self, job: Job) -> None:
        freeze = self.freeze
        if freeze.active:
            saved = self._workload.saved()
            freeze.enter("quiescing", EXPORT)
            freeze.processes = saved
            await freeze.save(done=False)  # first: after a crash it tells what was stopped
            freeze.stopped = await self._workload.stop(job.stop_seconds)
            freeze.stopped += await self._all_out(job.stop_seconds)
            await freeze.hold(EXPORT)
        await freeze.save(done=False)
        freeze.state = "quiesced"

    async def _all_out(self, seconds: float) -> list[str]:
        """Wait for those who were let in before; returns what they have started since, stopped."""
        if not await self.freeze.settled(SETTLE_SECONDS):
            self.freeze.expel()
        if not await self.freeze.settled(SETTLE_SECONDS):
            self._log.warning("archive: somebody who was let in before still writes")
        return await self._workload.stop(seconds)

    def _fill(self, job: Job, packed: "Packed", pristine: "Pristine") -> None:
        processes = self._workload.saved() if self.freeze.active else self.freeze.processes
        images = [path for path in (job.image_mount_point, self._settings.image) if path]
        packed.fill(job, pristine, processes, [*self._runtime, *images], self._clock)

    async def _send(self, job: Job, packed: "Packed", progress: Exporting) -> None:
        def sent(count: int) -> None:
            progress.sent = count

        # The hour of a transfer begins here, however long the look at the files took.
        self._clock = clock = Clock()
        retries = self._settings.retries
        await bounded(packed.send, job, clock, retries, sent, seconds=WORK_SECONDS)
        progress.uploaded = True
        await self.freeze.save(done=True)

    async def _failed(self, job: Job, progress: Exporting, error: SandkeeperError) -> None:
        """Lift the freeze."""
        progress.end(str(error))
        if job.dry_run:
            return
        self._log.warning(f"archive: the export failed: {error}")
        if not self.freeze.active:
            await self._lift()

    async def _begin_again(self, saved: list[SavedProcess]) -> None:
        """Start what was stopped for an archive that nobody has."""
        failures = await self._workload.begin_again(saved)
        for failure in failures:
            self._log.error(f"archive: not started again: {failure}")
        if saved:
            count = len(saved) - len(failures)
            self._log.info(f"archive: {count} processes were started again, with new ids")

    def _abandon(self, job: Job) -> None:
        from sandkeeper.archive.export import abandon

        abandon(job, self._settings.retries, self._log)

    async def fetched(self) -> None:
        """Take notice that somebody has the archive that was kept; raises NotFound, Internal."""
        assert self.kept.source is not None
        self.kept.drop()
        if self.exporting is not None:
            self.exporting.uploaded = True
        await self.freeze.save(done=True)

    async def resume(self) -> None:
        """Lift the freeze; raises Conflict, Internal.

        Nothing is started again, but for what was stopped for an archive that nobody has said to
        have (`fetched`).
        """
        if self.busy:
            raise Conflict("an export or a restore is running")
        saved = self.freeze.processes if self.kept.is_there else []
        if not self.freeze.active:
            await self.freeze.lift()
        if self.kept.is_there:
            self.kept.drop()
            await self._begin_again(saved)

    # The start and the end of the server

    async def start(self) -> None:
        """Take up what an earlier server left, then start the workload, restored if told so."""
        await self._recorder.at_start()
        saved: list[SavedProcess] = []
        try:
            said, saved = await self.freeze.recall()
        except Internal as error:
            said = str(error)
        if said:
            self._log.warning(f"archive: {said}")
        if said == INTERRUPTED:
            self.exporting = Exporting()
            self.exporting.end(said)
            await self._begin_again(saved)
        if not self.freeze.active:
            return
        if not self._settings.import_url:
            await self._workload.begin()
        elif await asyncio.to_thread(was_restored, self._settings.root):
            self._log.info("archive: it was restored here before")
            await self._workload.begin()
        else:
            self.restoring = Restored()
            self.freeze.enter("restoring", "archive restore")
            restoring = self._restore(self.restoring, self._settings.import_url)
            self._task = asyncio.ensure_future(restoring)

    async def bring(self, path: str, stop_seconds: float) -> Restored:
        """Begin to apply an archive that lies in a file, in the place of what runs.

        Raises Conflict, BadInput, NotFound, and then nothing was stopped.
        """
        from sandkeeper.archive.restore import check

        self._check_free()
        self.freeze.check()
        self.restoring = progress = Restored()
        try:
            await bounded(check, path, seconds=WORK_SECONDS)
        except BaseException as error:
            progress.end(str(error) or type(error).__name__)
            raise
        self._task = asyncio.ensure_future(self._bring(progress, path, stop_seconds))
        return progress

    async def _bring(self, progress: Restored, path: str, stop_seconds: float) -> None:
        saved = self._workload.saved()
        self.freeze.enter("restoring", "archive import")
        try:
            await self.freeze.save(done=False)
            await self._workload.stop(stop_seconds)
            await self._all_out(stop_seconds)
        except SandkeeperError as error:
            await self._not_restored(progress, str(error), saved)
            return
        await self._restore(progress, path, saved)

    async def _restore(
        self, progress: Restored, source: str, saved: "list[SavedProcess] | None" = None
    ) -> None:
        """Apply an archive; `saved` ran before, if this is not the start of the machine."""
        self._clock = Clock()
        try:
            await bounded(self._apply, progress, source, seconds=WORK_SECONDS)
        except Exception as error:  # noqa: BLE001 - told in the status; the server must go on
            told = as_told(error, self._log, "restore")
            await self._not_restored(progress, str(told), saved)
            return
        progress.state = "relaunching"
        await self._lift()
        await self._workload.begin()
        failures = await self._workload.relaunch(progress.processes)
        for failure in failures:
            self._log.error(f"archive: not started again: {failure}")
        progress.end()
        progress.error = "; ".join(failures)
        self._log.info(f"archive: {progress.restored} paths restored, {progress.deleted} deleted")

    def _apply(self, progress: Restored, source: str) -> None:
        from sandkeeper.archive.restore import restore
        from sandkeeper.archive.snapshot import LeftOut

        root = self._settings.root
        prefix = root.rstrip("/") + "/"
        own = [p.removeprefix(prefix) for p in self._runtime if p.startswith(prefix)]
        left_out = LeftOut([*own, FOLDER, *("proc", "sys", "dev")])
        restore(
            *(source, root, left_out, self._temporary),
            *(self._clock, self._settings.retries, progress),
        )

    async def _not_restored(
        self, progress: Restored, why: str, saved: "list[SavedProcess] | None" = None
    ) -> None:
        """Before the first change the machine is as it was; after it nothing may build on it."""
        if not progress.written:
            self._log.error(f"archive: not restored, the machine is unchanged: {why}")
            await self._lift()
            await (self._workload.begin() if saved is None else self._begin_again(saved))
            progress.end(why)
            return
        self._log.error(f"archive: restored in part, the workload is not started: {why}")
        self.freeze.enter("quiesced", "the restore failed half-way")
        try:
            await self.freeze.hold(self.freeze.reason)
        except Internal as error:
            self._log.error(f"archive: {error}")
        progress.end(why)

    async def _lift(self) -> None:
        try:
            await self.freeze.lift()
        except Internal as error:
            self._log.error(f"archive: {error}")

    async def stop(self) -> None:
        """Give up what runs; the next start finds it interrupted."""
        self._clock.stop()
        self._recorder.close()
        self.kept.drop()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with suppress(asyncio.CancelledError, SandkeeperError):
                await self._task


def _retrieved(task: "asyncio.Task[Exported]") -> None:
    """Take the error of an export nobody waits for; its status tells it."""
    if not task.cancelled():
        task.exception()
