"""Wire structs of the archive."""

import msgspec

from sandkeeper.api.edge.respond import utf8
from sandkeeper.archive.export import Manifest
from sandkeeper.archive.job import Exporting, Restored
from sandkeeper.archive.service import Archive, Exported
from sandkeeper.log.lines import timestamp
from sandkeeper.numerals import go_duration

__all__ = [
    "ArchiveChange",
    "ExportOptions",
    "ExportProgress",
    "ExportResult",
    "ImportOptions",
    "MultipartUpload",
    "QuiesceStatus",
    "progress_of",
    "restore_of",
    "result_of",
    "status_of",
]


class MultipartUpload(msgspec.Struct, rename="camel"):
    """Presigned URLs of an upload in parts; `part_size` in bytes."""

    part_urls: list[str] = []
    part_size: int = 0
    complete_url: str = ""
    abort_url: str = ""


class ExportOptions(msgspec.Struct, rename="camel"):
    """What to export and where to; `compression` and `download` are ours."""

    url: str = ""
    headers: dict[str, str] = {}
    multipart: MultipartUpload | None = None
    async_: bool = msgspec.field(default=False, name="async")
    dry_run: bool = False
    save_processes: bool = True
    excludes: list[str] = []
    stop_timeout_seconds: int = 0
    image_device: str = ""
    image_mount_point: str = ""
    compression: str = ""
    download: bool = False


class ImportOptions(msgspec.Struct, rename="camel"):
    """What to apply: the full path of a file."""

    path: str = ""
    stop_timeout_seconds: int = 0


class ArchiveChange(msgspec.Struct):
    """A changed path; `size` is 0 for all but regular files."""

    kind: str
    path: str
    size: int


class ExportResult(msgspec.Struct, rename="camel"):
    """A finished export; the changes of a dry run are added to it as they are read."""

    manifest: Manifest
    size: int
    duration: str
    uploaded: bool
    stopped_processes: list[str] | msgspec.UnsetType = msgspec.UNSET


class ExportProgress(msgspec.Struct, rename="camel"):
    """How far an export is; `sent` is ours."""

    state: str
    started_at: str
    size: int
    sent: int
    uploaded: bool
    finished_at: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class RestoreProgress(msgspec.Struct, rename="camel"):
    """How far a restore is; sizes in bytes, 0 where unknown."""

    state: str
    started_at: str
    downloaded: int
    size: int
    restored: int
    deleted: int
    finished_at: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class QuiesceStatus(msgspec.Struct, rename="camel"):
    """Whether the sandbox is frozen, and how far its archive is."""

    state: str
    read_only_root: bool
    stopped_processes: list[str]
    since: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    export: ExportProgress | msgspec.UnsetType = msgspec.UNSET
    restore: RestoreProgress | msgspec.UnsetType = msgspec.UNSET


def result_of(done: Exported) -> ExportResult:
    """Make the reply to an export."""
    manifest = msgspec.structs.replace(
        done.manifest,
        excludes=[utf8(path) for path in done.manifest.excludes],
        deleted=[utf8(path) for path in done.manifest.deleted],
        unreadable=[utf8(path) for path in done.manifest.unreadable],
    )
    duration = go_duration(round(done.seconds, 3 if done.seconds < 1 else 1))
    result = ExportResult(manifest, done.size, duration, done.uploaded)
    if done.packed is None:  # a dry run stops nothing
        result.stopped_processes = done.stopped
    return result


def progress_of(progress: Exporting) -> ExportProgress:
    """Show an export."""
    return ExportProgress(
        progress.state,
        progress.started_at,
        progress.size,
        progress.sent,
        progress.uploaded,
        progress.finished_at or msgspec.UNSET,
        utf8(progress.error) or msgspec.UNSET,
    )


def restore_of(progress: Restored) -> RestoreProgress:
    """Show a restore."""
    return RestoreProgress(
        progress.state,
        progress.started_at,
        progress.downloaded,
        progress.size,
        progress.restored,
        progress.deleted,
        progress.finished_at or msgspec.UNSET,
        utf8(progress.error) or msgspec.UNSET,
    )


def status_of(archive: Archive) -> QuiesceStatus:
    """Show the whole state."""
    freeze = archive.freeze
    status = QuiesceStatus(freeze.state, freeze.read_only, freeze.stopped)
    if not freeze.active:
        status.since, status.reason = timestamp(freeze.since), utf8(freeze.reason)
    if archive.exporting is not None:
        status.export = progress_of(archive.exporting)
    if archive.restoring is not None:
        status.restore = restore_of(archive.restoring)
    return status
