"""Processes that outlive who started them.

What is running, and with what it was started, stands in `state.json` of a folder, so that it can be
ended by another program; a process is told by its number and its start, so a number that was given
again is left alone.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness import until


class Failed(Exception):
    """The cluster, or this machine, is not as it has to be; one sentence for who started it."""


def wait(check: Callable[[], Any], what: str, timeout: float = 180.0) -> Any:
    """Return the first true value of `check()`.

    :raises Failed: there was none in time.
    """
    try:
        return until(check, timeout, every=0.05)
    except AssertionError as error:
        raise Failed(f"{what}: {error}") from error


def started_at(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was; empty: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if stat[0] in "ZX" else stat[19]


class Processes:
    """Processes that outlive who started them, noted in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._note = folder / "state.json"
        self.known: dict[str, Any] = (
            json.loads(self._note.read_text()) if self._note.exists() else {}
        )

    def keep(self) -> None:
        """Write down what is known, whole."""
        part = self._note.with_suffix(".part")
        part.write_text(json.dumps(self.known, indent=2))
        part.replace(self._note)

    def start(self, name: str, *words: Any, env: dict[str, str] | None = None) -> None:
        """Start a process; what it says goes to `NAME.log`."""
        command = [str(word) for word in words]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.known[name] = {
            "pid": process.pid,
            "start": started_at(process.pid),
            "command": command,
            "env": env or {},
        }
        self.keep()

    def runs(self, name: str) -> bool:
        """Say whether it runs, and is the one that was started."""
        noted = self.known.get(name)
        return bool(noted and noted["start"] and started_at(noted["pid"]) == noted["start"])

    def stop(self, name: str, number: int = signal.SIGTERM, patience: float = 10.0) -> None:
        """End a process, with SIGKILL if it does not end by itself."""
        if self.runs(name):
            pid = self.known[name]["pid"]
            os.kill(pid, number)
            deadline = time.monotonic() + patience
            while self.runs(name) and time.monotonic() < deadline:
                self._reap(pid)
                time.sleep(0.02)
            if self.runs(name):
                os.kill(pid, signal.SIGKILL)
                while self.runs(name):
                    self._reap(pid)
                    time.sleep(0.02)

    def again(self, name: str) -> None:
        """Start what was stopped once more, with the same words."""
        noted = self.known[name]
        self.start(name, *noted["command"], env=noted["env"])

    def seconds(self, name: str) -> float:
        """Return how much time of a processor it has had."""
        stat = Path(f"/proc/{self.known[name]['pid']}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self, name: str) -> int:
        """Return its memory in bytes."""
        pages = Path(f"/proc/{self.known[name]['pid']}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @staticmethod
    def _reap(pid: int) -> None:
        """Take leave of a child; of others' children somebody else does."""
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
