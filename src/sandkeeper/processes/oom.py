"""Whether the kernel's out-of-memory killer has been at work."""

from contextlib import suppress
from pathlib import Path

__all__ = ["OomWatch"]

COUNTS = "/proc/vmstat"


class OomWatch:
    """Counts kills since the last look: `oom_kill` of /proc/vmstat (Linux 4.13).

    The count is the machine's, not the process's: a SIGKILL that nobody here sent and that came
    with a rise of the count is taken for one of them. `tick` forgets rises that killed others.
    """

    def __init__(self) -> None:
        self._path = Path(COUNTS)
        self._seen = self._read()

    def tick(self) -> None:
        """Take the present count as the one before the next kill."""
        self._seen = self._read()

    def happened(self) -> bool:
        """Say whether the count has risen since the last look."""
        now = self._read()
        risen = now > self._seen
        self._seen = now
        return risen

    def _read(self) -> int:
        with suppress(OSError, ValueError):
            for line in self._path.read_bytes().splitlines():
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
        return 0
