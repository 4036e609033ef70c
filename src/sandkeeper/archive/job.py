"""The words of an archive: what is wanted, how far it is, how long it may take.

Apart from the work itself, so that a server that never archives loads none of that.
"""

import threading
import time
import traceback
from collections.abc import Mapping

import msgspec

from sandkeeper.errors import Internal, SandkeeperError
from sandkeeper.log.lines import Log, timestamp
from sandkeeper.processes.spec import SavedProcess

__all__ = ["Clock", "Exporting", "Job", "Multipart", "Restored", "Stopped", "as_told"]

TRANSFER_SECONDS = 3600.0


class Multipart(msgspec.Struct, frozen=True):
    """Presigned URLs of an upload in parts; `part_size` in bytes."""

    part_urls: list[str]
    part_size: int
    complete_url: str
    abort_url: str = ""


class Job(msgspec.Struct, frozen=True):
    """An export somebody wants; with `keep` it is sent nowhere but kept here to be fetched."""

    url: str = ""
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    multipart: Multipart | None = None
    dry_run: bool = False
    save_processes: bool = True
    excludes: list[str] = msgspec.field(default_factory=list)
    stop_seconds: float = 30.0
    image_device: str = ""
    image_mount_point: str = ""
    zstd: bool = False
    keep: bool = False

    @property
    def urls(self) -> list[str]:
        """Where it is sent, with what ends an upload in parts."""
        if self.multipart is None:
            return [self.url]
        ends = filter(None, (self.multipart.complete_url, self.multipart.abort_url))
        return [*self.multipart.part_urls, *ends]


class Exporting(msgspec.Struct):
    """How far an export is; sizes in bytes. `sent` is ours: what is on its way."""

    state: str = "running"
    started_at: str = msgspec.field(default_factory=timestamp)
    finished_at: str = ""
    size: int = 0
    sent: int = 0
    uploaded: bool = False
    error: str = ""

    def end(self, error: str = "") -> None:
        """Note that it is over."""
        self.state = "failed" if error else "succeeded"
        self.error = error
        self.finished_at = timestamp()


class Restored(msgspec.Struct):
    """How far a restore is, in the words of the contract; sizes in bytes, 0 where unknown."""

    state: str = "downloading"
    started_at: str = msgspec.field(default_factory=timestamp)
    finished_at: str = ""
    downloaded: int = 0
    size: int = 0
    restored: int = 0
    deleted: int = 0
    error: str = ""
    written: bool = False
    processes: list[SavedProcess] = msgspec.field(default_factory=list)

    def end(self, error: str = "") -> None:
        """Note that it is over."""
        self.state = "failed" if error else "succeeded"
        self.error = error
        self.finished_at = timestamp()


class Stopped(Exception):
    """The server is stopping."""


def as_told(error: Exception, log: Log, what: str = "export") -> SandkeeperError:
    """Return what a client is told of a failure; what was not foreseen is logged."""
    if isinstance(error, SandkeeperError):
        return error
    if isinstance(error, Stopped):
        return Internal("the server is stopping")
    if isinstance(error, OSError):
        return Internal(f"the {what} failed: {error.strerror or type(error).__name__}")
    stack = "".join(traceback.format_exception(error))[-8000:]
    log.error(f"archive: {type(error).__name__} during the {what}", stack=stack)
    return Internal(f"the {what} failed: internal error")


class Clock:
    """How long a transfer may still take, and whether the server stops meanwhile."""

    def __init__(self, seconds: float = TRANSFER_SECONDS) -> None:
        self._until = time.monotonic() + seconds
        self._stop = threading.Event()

    def stop(self) -> None:
        """Have the transfer end at its next check."""
        self._stop.set()

    def check(self) -> None:
        """Raise Stopped, or Internal when the hour is over."""
        if self._stop.is_set():
            raise Stopped
        if time.monotonic() > self._until:
            raise Internal("the transfer took more than an hour")

    def pause(self, seconds: float) -> None:
        """Wait; raises as `check`."""
        self._stop.wait(min(seconds, max(0.0, self._until - time.monotonic())))
        self.check()
