"""The lock on a state folder: two servers on one would take each other's processes and pipes."""

import errno
import fcntl
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.statefiles import SetAside, keep_kind, open_plain
from sandkeeper.linux.paths.trusted import UntrustedFile, open_trusted_folder

__all__ = ["StateLock"]

PATIENCE_SECONDS = 2.0
EVERY_SECONDS = 0.05


class StateLock:
    """Held from construction to `close`, or to the death of this process (flock(2)).

    Makes the folder where it is missing. Raises OSError: EBUSY when another server has it, EPERM
    when it belongs to another user, who could plant files there, or when the workload's user could
    put another folder in its place. `told` is what there is to say in the log.
    """

    def __init__(self, folder: Path, workload: Identity | None = None) -> None:
        self._make(folder, workload)
        facts = folder.stat()
        if facts.st_uid != os.geteuid():
            raise OSError(errno.EPERM, f"it belongs to user {facts.st_uid}", str(folder))
        folder.chmod(0o700)
        self.told: list[str] = []
        # What is no file is nobody's lock.
        keep_kind(folder / "lock", stat.S_IFREG, SetAside(folder, self.told.append))
        self._fd = open_plain(folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            self._take(folder)
        except BaseException:
            os.close(self._fd)
            raise

    @staticmethod
    def _make(folder: Path, workload: Identity | None) -> None:
        if workload is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        try:
            os.close(open_trusted_folder(folder, make=0o700, workload=workload, only=True))
        except UntrustedFile as error:
            raise OSError(errno.EPERM, str(error), str(folder)) from None

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._fd)

    def _take(self, folder: Path) -> None:
        """Wait a moment: of a server killed just now, a child between fork and exec has a copy."""
        pause = threading.Event()
        for _ in range(int(PATIENCE_SECONDS / EVERY_SECONDS)):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pause.wait(EVERY_SECONDS)
        else:
            owner = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip()
            raise OSError(errno.EBUSY, f"another server (process {owner}) uses it", str(folder))
        with suppress(OSError):  # the number is for people; a full disk keeps nobody from serving
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
