"""The state folder: what stands in it, what of it is broken, and whether it is still there.

Somebody may remove it, mount over it or have it become read-only while we run. That is looked for
twice a second, told once, and shown by `/ready`; starts are refused meanwhile, because nothing
could be kept of them. What runs goes on, and its output is counted as lost. Whatever folder stands
under the name later, if it is ours, is used from then on.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from sandkeeper.errors import StartFailed
from sandkeeper.journal.segment import is_scarcity
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.paths.statefiles import (
    Damaged,
    SetAside,
    decoded,
    keep_kind,
    make_folder,
    read_plain,
)
from sandkeeper.log.lines import Log

__all__ = ["StateFolder"]

LOOK_SECONDS = 0.5
RECORD_BYTES = 1 << 20
FILES = ("stage", "temporaries", "first-start", "upgrade.json")
RECORDS = (
    "upgrade.json",
    "egress.json",
    "archive/freeze.json",
    "drives/mounted.json",
    "tunnel/tunnel.json",
    "versions/current.json",
)
FOLDERS = ("archive", "drives", "tunnel", "versions", "uploads")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class StateFolder:
    """The folder and what is known of it; `fault` tells what is wrong, empty when nothing is."""

    def __init__(self, state: Path, log: Log) -> None:
        self._state = state
        self._log = log
        self.aside = SetAside(state, log.error)
        self.fault = ""
        self._runs = OwnedFd(-1)
        self._thread = ThreadPoolExecutor(1, "state")

    def tidy(self) -> None:
        """Set aside what stands where a file or folder of ours belongs and is none; blocks."""
        for name in FILES:
            keep_kind(self._state / name, stat.S_IFREG, self.aside)
        keep_kind(self._state / "keeper.sock", stat.S_IFSOCK, self.aside)
        for name in FOLDERS:
            if os.path.lexists(self._state / name):
                with suppress(OSError):  # who uses it tells
                    make_folder(self._state / name, self.aside)
        for name in RECORDS:
            self._try_record(self._state / name)

    def _try_record(self, path: Path) -> None:
        """Set a record aside that is no JSON: whoever reads it goes on without, and writes anew."""
        try:
            if data := read_plain(path, RECORD_BYTES):
                decoded(data, object)
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, Damaged) as error:
            if not isinstance(error, OSError) or not is_scarcity(error):
                self.aside.put(path, error)

    def check(self) -> None:
        """Raise StartFailed when nothing could be kept of a process that starts now."""
        why = self.fault
        if not why and not self._runs.closed and not os.fstat(self._runs.number).st_nlink:
            why = "the state folder was removed"
        if why:
            raise StartFailed(f"cannot keep its state: {why}")

    @asynccontextmanager
    async def watched(self, *moved: Callable[[], None]) -> AsyncIterator[None]:
        """Look after it while inside; `moved` are called when files may be elsewhere, or gone."""
        await self._look(first=True)
        task = asyncio.ensure_future(self._watch(moved))
        try:
            yield
        finally:
            task.cancel()
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._runs.close()

    async def _watch(self, moved: Sequence[Callable[[], None]]) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for call in moved if await self._look() else ():
                call()

    async def _look(self, *, first: bool = False) -> bool:
        """See what is there; says whether it is another folder than before, or none."""
        before = self.fault
        loop = asyncio.get_running_loop()
        self.fault, found = await loop.run_in_executor(self._thread, self._inspect)
        if self.fault and self.fault != before:
            self._log.error(f"{self.fault}: {self._state}; nothing is kept until it is back")
        elif before and not self.fault:
            self._log.warning(f"the state folder {self._state} can be used again")
        elif found is not None and not first:
            self._log.warning(f"another folder stands at {self._state}; it is used from now on")
        if found is not None:
            self._runs.close()
            self._runs = found
        return found is not None or self.fault != before

    def _inspect(self) -> tuple[str, OwnedFd | None]:
        """Return what is wrong, and `runs` if it is not the one that we know."""
        try:
            if os.stat(self._state).st_uid != os.geteuid():
                return "the state folder belongs to somebody else", None
            read_only = bool(os.statvfs(self._state).f_flag & os.ST_RDONLY)
            if not read_only:
                make_folder(self._state / "runs", self.aside)
                make_folder(self._state / "terminals", self.aside)
            runs = OwnedFd(os.open(self._state / "runs", _FOLDER))
        except FileNotFoundError:
            return "the state folder was removed", None
        except OSError as error:
            if is_scarcity(error):  # ours, and no fault of the folder: what was known stands
                return self.fault, None
            return f"the state folder cannot be used ({error.strerror})", None
        fault = "the state folder has become read-only" if read_only else ""
        if not self._runs.closed and _identity(runs) == _identity(self._runs):
            runs.close()
            return fault, None
        return fault, runs


def _identity(folder: OwnedFd) -> tuple[int, int]:
    facts = os.fstat(folder.number)
    return facts.st_dev, facts.st_ino
