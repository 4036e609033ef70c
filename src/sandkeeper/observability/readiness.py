"""Whether the server can do its work: its threads live and its state folder takes data."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from sandkeeper.linux.worker import NO_THREAD, lacks_threads
from sandkeeper.processes.state_folder import StateFolder

__all__ = ["Readiness"]

PROBE_SECONDS = 2.0
FREE_BYTES = 1 << 20


class Readiness:
    """Checks by name, which say what is wrong, if anything; the folder's on a thread of its own.

    A disk that hangs holds that one thread, and every later look says so at once.
    """

    def __init__(
        self, state: Path, folder: StateFolder, checks: dict[str, Callable[[], str]]
    ) -> None:
        self._state = state
        self._known = folder
        self._checks = checks
        self._thread = ThreadPoolExecutor(1, "ready")
        self._probe: asyncio.Future[str] | None = None
        self.serving = False

    async def check(self) -> dict[str, str]:
        """Return for every check `ok` or what is wrong."""
        found = {"server": "ok" if self.serving else "starting or stopping"}
        for name, wrong in self._checks.items():
            found[name] = wrong() or "ok"
        found["state"] = await self._folder()
        return found

    async def _folder(self) -> str:
        if self._probe is None or self._probe.done():
            loop = asyncio.get_running_loop()
            try:
                self._probe = loop.run_in_executor(self._thread, self._look)
            except RuntimeError as error:
                if lacks_threads(error):
                    return NO_THREAD
                raise
            with suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(self._probe), PROBE_SECONDS)
            return f"no answer from the disk within {PROBE_SECONDS:g} s"
        done, _ = await asyncio.wait({self._probe}, timeout=PROBE_SECONDS)
        return self._probe.result() if done else "no answer from the disk"

    def _look(self) -> str:
        if fault := self._known.fault:
            return fault
        try:
            if not os.access(self._state / "runs", os.W_OK | os.X_OK):
                return "the state folder is not writable"
            disk = os.statvfs(self._state)
        except OSError as error:
            return f"the state folder cannot be used: {error.strerror}"
        return "ok" if disk.f_bavail * disk.f_frsize >= FREE_BYTES else "the disk is full"

    def close(self) -> None:
        """Stop the thread without waiting for a disk."""
        self.serving = False
        self._thread.shutdown(wait=False, cancel_futures=True)
