"""Folders of terminals, one each: what a session is, and the journal of what it showed.

<state>/terminals/<id>/   0700
    meta.json             replaced atomically
    journal/              output and sizes (journal.segment)
"""

import os
import shutil
from pathlib import Path

import msgspec

from sandkeeper.linux.paths.statefiles import LAST_SECOND, Damaged, decoded, is_moment, read_plain
from sandkeeper.processes.runs import began_at

__all__ = ["TerminalFolder", "TerminalMeta"]


class TerminalMeta(msgspec.Struct, omit_defaults=True):
    """What `meta.json` keeps; times in seconds since the epoch.

    `name` is the client's session id. `leader`, `leader_start` and `boot` prove the shell. `args`
    stand behind the shell; `env`, `inherit_env`, `user` and `tag` are as a process's
    (processes.spec), and so is `timeout`, in seconds (0: none), which is over when `WORK`
    (linux.clocks) shows `due_uptime`.
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
    args: list[str] = []
    env: dict[str, str] = {}
    inherit_env: bool = True
    user: str = ""
    tag: str = ""
    timeout: float = 0.0
    timed_out: bool = False
    due_uptime: float = 0.0


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
        """Return what `meta.json` says, or None when there is none.

        Raises OSError when it cannot be read, Damaged when it cannot be true.
        """
        try:
            meta = decoded(read_plain(self.path / "meta.json"), TerminalMeta)
        except FileNotFoundError:
            return None
        meta.id = self.path.name
        sound = (
            0 < meta.cols < 65536
            and 0 < meta.rows < 65536
            and is_moment(meta.started_at)
            and is_moment(meta.ended_at)
            and is_moment(meta.timeout)
            and is_moment(meta.due_uptime)
            and 0 <= meta.leader < 1 << 31
            and 0 <= meta.leader_start < 1 << 62
            and -(1 << 31) <= (meta.exit_code or 0) < 1 << 31
            and 0 <= (meta.exit_signal or 0) < 128
        )
        if not sound:
            raise Damaged("a value of it cannot be true")
        try:
            msgspec.json.encode(meta)
        except UnicodeEncodeError:
            raise Damaged("a text of it is no text") from None
        return meta

    def lost_meta(self) -> TerminalMeta:
        """Return a record for a session whose own is lost."""
        name = self.path.name
        began = min(began_at(name), LAST_SECOND)
        return TerminalMeta(name, name, "", started_at=began)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path, ignore_errors=True)
