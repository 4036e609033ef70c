"""Run directories: the database of processes, one folder each, inspectable with `ls`.

    <state>/runs/<id>/        0700
        meta.json             what the run is and how it stands; replaced atomically
        out.fifo err.fifo     the pipes of its output, the workload user's
        journal/              its output (core.segment)
        exported              how far its output went to the telemetry (services.telemetry)

Ids are ours; names from clients never become paths.
"""

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.core.identity import Identity

__all__ = ["RunFolder", "RunMeta", "new_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id() -> str:
    """Return a ULID: 10 characters of time, 16 of chance; sorts by age."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


class RunMeta(msgspec.Struct, omit_defaults=True):
    """What `meta.json` keeps; times in seconds since the epoch, sizes in bytes.

    `leader`, `leader_start` and `boot` prove the process of the present attempt; `exit_code` is
    the wire's (-1 for a signal), `exit_signal` the signal's number.
    """

    id: str
    command: str
    name: str
    version: int = 1
    pid: str = ""
    working_dir: str = ""
    env: dict[str, str] = {}
    restart_on_failure: bool = False
    max_restarts: int = 0
    keep_alive: bool = False
    stdin: bool = False
    timeout: int = 0
    deadline: float = 0.0
    state: str = "running"
    started_at: float = 0.0
    completed_at: float = 0.0
    restart_count: int = 0
    exit_code: int | None = None
    exit_signal: int | None = None
    exit_reason: str = ""
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None
    exit_offset: int | None = None
    sealed: bool = False
    leader: int = 0
    leader_start: int = 0
    boot: str = ""
    idempotency_key: str = ""
    idempotency_body: str = ""


class RunFolder:
    """The folder of one run; all methods block."""

    def __init__(self, runs: Path, run_id: str) -> None:
        self.id = run_id
        self.path = runs / run_id
        self.journal = self.path / "journal"
        self.fifos = (self.path / "out.fifo", self.path / "err.fifo")
        self.exported = self.path / "exported"

    def create(self, identity: Identity | None) -> None:
        """Make the folder and its pipes; raises OSError."""
        self.path.mkdir(mode=0o700)
        self.journal.mkdir(mode=0o700)
        for fifo in self.fifos:
            os.mkfifo(fifo, 0o600)
            if identity is not None:
                # So that the workload may reopen its own /dev/stdout.
                os.chown(fifo, identity.uid, identity.gid)

    def open_readers(self) -> tuple[int, int]:
        """Open both pipes for reading; raises OSError."""
        return self._open(os.O_RDONLY | os.O_NONBLOCK)

    def open_writers(self) -> tuple[int, int]:
        """Open both pipes as a child gets them: it reads its own pipe, so it never sees SIGPIPE."""
        return self._open(os.O_RDWR)

    def _open(self, flags: int) -> tuple[int, int]:
        first = os.open(self.fifos[0], flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return first, os.open(self.fifos[1], flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            os.close(first)
            raise

    def save(self, data: bytes) -> None:
        """Replace `meta.json` by an encoded RunMeta; raises OSError."""
        temporary = self.path / "meta.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, self.path / "meta.json")

    def load(self) -> RunMeta | None:
        """Return what `meta.json` says, or None when it is absent or unreadable."""
        try:
            return msgspec.json.decode((self.path / "meta.json").read_bytes(), type=RunMeta)
        except (OSError, msgspec.MsgspecError):
            return None

    def drop_fifos(self) -> None:
        """Remove the pipes once nobody writes to them."""
        for fifo in self.fifos:
            with suppress(OSError):
                fifo.unlink()

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path, ignore_errors=True)
