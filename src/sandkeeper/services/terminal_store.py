"""Folders of terminals, one each: what a session is, and the journal of what it showed.

<state>/terminals/<id>/   0700
    meta.json             replaced atomically
    journal/              output and sizes (core.segment)
"""

import os
import shutil
from pathlib import Path

import msgspec

__all__ = ["TerminalFolder", "TerminalMeta"]


class TerminalMeta(msgspec.Struct, omit_defaults=True):
    """What `meta.json` keeps; times in seconds since the epoch.

    `name` is the client's session id. `leader`, `leader_start` and `boot` prove the shell.
    """

    id: str
    name: str
    shell: str
    working_dir: str = ""
    cols: int = 80
    rows: int = 24
    started_at: float = 0.0
    leader: int = 0
    leader_start: int = 0
    boot: str = ""
    ended_at: float = 0.0
    exit_code: int | None = None
    exit_signal: int | None = None


class TerminalFolder:
    """The folder of one session; all methods block."""

    def __init__(self, terminals: Path, terminal_id: str) -> None:
        self.path = terminals / terminal_id
        self.journal = self.path / "journal"

    def create(self) -> None:
        """Make it; raises OSError."""
        self.path.mkdir(mode=0o700)
        self.journal.mkdir(mode=0o700)

    def save(self, meta: TerminalMeta) -> None:
        """Replace `meta.json`; raises OSError."""
        temporary = self.path / "meta.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, msgspec.json.encode(meta))
        finally:
            os.close(fd)
        os.rename(temporary, self.path / "meta.json")

    def load(self) -> TerminalMeta | None:
        """Return what `meta.json` says, or None when it is absent or unreadable."""
        try:
            return msgspec.json.decode((self.path / "meta.json").read_bytes(), type=TerminalMeta)
        except (OSError, msgspec.MsgspecError):
            return None

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path, ignore_errors=True)
