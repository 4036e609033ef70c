"""Making the archive and sending it: the blocking part of an export."""

import errno
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from html import escape
from pathlib import Path
from typing import IO

import msgspec

from sandkeeper import __version__
from sandkeeper.archive.baseline import FOLDER, excluded, mount_points
from sandkeeper.archive.bundle import Bundle, ByteSource, Plan, Spool
from sandkeeper.archive.job import Clock, Job, Multipart
from sandkeeper.archive.pristine import Pristine
from sandkeeper.archive.snapshot import LeftOut
from sandkeeper.archive.transfer import Storage
from sandkeeper.errors import Internal, SandkeeperError
from sandkeeper.files.tar import zstd
from sandkeeper.log.lines import Log, timestamp
from sandkeeper.processes.spec import SavedProcess

__all__ = [
    "MANIFEST",
    "PROCESSES",
    "VERSION",
    "Manifest",
    "Packed",
    "abandon",
]

VERSION = 1
MANIFEST, PROCESSES = f"{FOLDER}/manifest.json", f"{FOLDER}/processes.json"
MOST_DELETED = 1_000_000
ABORT_SECONDS = 30.0
ZSTD_LEVEL, ZSTD_THREADS, ZSTD_JOB = 1, 2, 1 << 20


class Manifest(msgspec.Struct, rename="camel"):
    """What is in an archive; `basis` and `unreadable` are ours."""

    version: int
    created_at: str
    root: str
    api_version: str
    image_device: str
    excludes: list[str]
    added: int
    modified: int
    deleted: list[str]
    payload_bytes: int
    processes: bool
    basis: str
    unreadable: list[str]


class Packed:
    """An archive ready to be sent; close it. Blocking throughout."""

    def __init__(self, root: str, folder: Path, log: Log) -> None:
        self._root = root
        self._folder = folder
        self._log = log
        self._stack = ExitStack()
        self.plan = Plan(self._temporary())
        self.source: ByteSource | None = None
        self.manifest: Manifest | None = None

    def close(self) -> None:
        """Give its files back."""
        self._stack.close()

    def _temporary(self) -> IO[bytes]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._stack.enter_context(tempfile.TemporaryFile(dir=self._folder))

    def fill(
        self,
        job: Job,
        pristine: Pristine,
        processes: list[SavedProcess],
        runtime: list[str],
        clock: Clock,
    ) -> None:
        """Look for the changes and fix the archive's length; raises Internal, Stopped."""
        excludes = excluded(self._root, runtime, job.excludes)
        left_out = LeftOut([*excludes, *mount_points(self._root)])
        try:
            for change in pristine.changes(self._root, left_out, clock.check):
                self.plan.add(change)
                if len(self.plan.deleted) > MOST_DELETED:
                    raise Internal(f"more than {MOST_DELETED} deleted paths cannot be told")
        except OSError as error:
            raise Internal(f"cannot look for changes: {error.strerror}: {error.filename}") from None
        now = time.time()
        saved = job.save_processes
        self.manifest = Manifest(
            version=VERSION,
            created_at=timestamp(),
            root=self._root,
            api_version=__version__,
            image_device=pristine.device,
            excludes=excludes,
            added=self.plan.added,
            modified=self.plan.modified,
            deleted=self.plan.deleted,
            payload_bytes=self.plan.payload,
            processes=saved,
            basis=pristine.basis,
            unreadable=[*left_out.unreadable, *self.plan.unreadable],
        )
        first = {MANIFEST: _json(self.manifest)}
        if saved:
            first[PROCESSES] = _json({"version": VERSION, "processes": processes})
        self.source = Bundle(self._root, self.plan, first, int(now), self._changed)
        if job.zstd and not job.dry_run:
            self.source = self._compressed(self.source, clock)

    def check(self, job: Job, clock: Clock, retries: int) -> None:
        """See that the storage is there, before anything is stopped; raises Internal, Stopped."""
        storage = Storage(clock, retries)
        try:
            storage.reach(job.urls)
        finally:
            storage.close()

    def _changed(self, path: str) -> None:
        self._log.warning(f"archive: {path!r} became shorter while it was read; filled with NUL")

    def _compressed(self, source: ByteSource, clock: Clock) -> ByteSource:
        """Spool it: storages want to know the length first, and parts are sent again from it."""
        try:
            return Spool(self._temporary(), _zstd(source, clock))
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise Internal("no room in the state directory for a compressed archive") from None
            raise

    def send(self, job: Job, clock: Clock, retries: int, sent: Callable[[int], None]) -> None:
        """Upload it; raises Internal, Stopped."""
        assert self.source is not None
        storage = Storage(clock, retries)
        try:
            if job.multipart is None:
                storage.put(job.url, job.headers, self.source, 0, self.source.size, sent)
            else:
                self._send_parts(storage, job.multipart, job, sent)
        except OSError as error:
            raise Internal(f"cannot read what is archived: {error.strerror}") from None
        finally:
            storage.close()

    def _send_parts(
        self, storage: Storage, parts: Multipart, job: Job, sent: Callable[[int], None]
    ) -> None:
        assert self.source is not None
        size, step = self.source.size, parts.part_size
        count = max(1, -(-size // step))
        if count > len(parts.part_urls):
            raise Internal(
                f"{size} bytes in parts of {step} need {count} part URLs, there are "
                f"{len(parts.part_urls)}"
            )
        tags = []
        for number in range(count):
            start = number * step
            length = min(step, size - start)
            url = parts.part_urls[number]
            report = partial(_report, sent, start)
            tags.append(storage.put(url, job.headers, self.source, start, length, report))
        storage.post(parts.complete_url, _completion(tags))

    def size(self) -> int:
        """How many bytes are sent."""
        return self.source.size if self.source is not None else 0


def abandon(job: Job, retries: int, log: Log) -> None:
    """Have the storage forget the parts of an export that failed, if a URL for that was given."""
    if job.multipart is None or not job.multipart.abort_url:
        return
    storage = Storage(Clock(ABORT_SECONDS), retries)
    try:
        storage.delete(job.multipart.abort_url)
    except SandkeeperError as error:
        log.warning(f"archive: the parts stay on the storage: {error}")
    finally:
        storage.close()


def _report(sent: Callable[[int], None], start: int, done: int) -> None:
    sent(start + done)


def _zstd(source: ByteSource, clock: Clock) -> Iterator[bytes]:
    blocks = source.blocks(0, source.size, clock.check)
    return zstd.packed(blocks, ZSTD_LEVEL, checksum=1, workers=ZSTD_THREADS, job_bytes=ZSTD_JOB)


def _json(value: object) -> bytes:
    """Encode with escapes: names that are not UTF-8 stay what they are (lone surrogates)."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def _completion(tags: list[str]) -> bytes:
    parts = []
    for number, tag in enumerate(tags, 1):
        quoted = f"<ETag>{escape(tag, quote=False)}</ETag>" if tag else ""
        parts.append(f"<Part><PartNumber>{number}</PartNumber>{quoted}</Part>")
    return f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()
