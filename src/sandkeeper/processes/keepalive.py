"""Keep-alive: telling the platform not to scale the sandbox to zero while a process needs it.

The file holds a counter that is changed by writing `+`, `-` or `=0` at its start, under flock(2).
Where its folder does not exist there is no such platform, and nothing is written.
"""

import fcntl
import os
from pathlib import Path

from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.trusted import UntrustedFile, open_trusted_output
from sandkeeper.log.lines import Log
from sandkeeper.log.redaction import redact_command

__all__ = ["KeepAlive"]


class KeepAlive:
    """The scale file; failures are logged, they never fail a process. Methods block shortly."""

    def __init__(
        self, path: Path, *, allowed: bool, log: Log, workload: Identity | None = None
    ) -> None:
        """Build; `workload` is who must not choose which file is written to."""
        self._path = path
        self._workload = workload
        self._log = log
        self.allowed = allowed
        self._present = path.parent.is_dir()

    def reset(self, holders: int = 0) -> None:
        """Begin at zero, then count the processes that outlived the last server."""
        self._write("=0")
        for _ in range(holders if self.allowed else 0):
            self._write("+")

    def resume(self, counted: int, holders: int) -> None:
        """Go on with the count of the server whose place we took, without passing through zero.

        `counted` is how often that server counted, `holders` how many of them still need it.
        """
        for _ in range(abs(counted - holders) if self.allowed else 0):
            self._write("-" if counted > holders else "+")

    def hold(self, pid: str, name: str, command: str, timeout: float) -> None:
        """Count one process."""
        if self.allowed:
            self._write("+")
            self._log.info(
                "[KeepAlive] Started process with keepAlive",
                process_pid=pid, process_name=name, timeout=timeout,
                command=redact_command(command),
            )  # fmt: skip

    def release(self, pid: str, name: str, status: str, exit_code: int | None) -> None:
        """Give the count back."""
        if self.allowed:
            self._write("-")
            self._log.info(
                "[KeepAlive] Process with keepAlive ended",
                process_pid=pid, process_name=name, status=status, exit_code=exit_code,
            )  # fmt: skip

    def _write(self, word: str) -> None:
        if not self._present:
            return
        try:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                os.pwrite(fd, word.encode(), 0)
            finally:
                os.close(fd)
        except (OSError, UntrustedFile) as error:
            reason = getattr(error, "strerror", None) or error
            self._log.error(f"[KeepAlive] cannot write {self._path}: {reason}")

    def _open(self) -> int:
        if self._workload is None:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return open_trusted_output(
            self._path, os.O_RDWR, 0o644, workload=self._workload, shared=True
        )
