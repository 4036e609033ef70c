"""Who is killed first when memory runs out: proc_pid_oom_score_adj(5)."""

import os
from contextlib import suppress

__all__ = ["OomScore", "protect_from_oom"]

SERVER_OOM_SCORE = -500


class OomScore:
    """Our own OOM score, held at the child's value while a child is born.

    Children inherit the score, so the whole tree has it from its first instruction. Written after
    the start instead, grandchildren forked early would keep the server's; see
    proc_pid_oom_score_adj(5).
    """

    def __init__(self) -> None:
        self._fd = -1
        with suppress(OSError):
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def held_at(self, score: int | None) -> "_Held":
        """Have `score` while inside; None leaves it as it is, and so does a kernel that refuses."""
        return _Held(-1 if score is None else self._fd, score or 0)


class _Held:
    """A plain class, for every start passes here."""

    __slots__ = ("_before", "_fd", "_score")

    def __init__(self, fd: int, score: int) -> None:
        self._fd = fd
        self._score = score
        self._before = b""

    def __enter__(self) -> None:
        if self._fd >= 0:
            self._before = os.pread(self._fd, 16, 0).strip()
            self._write(b"%d" % self._score)

    def __exit__(self, *_exc: object) -> None:
        if self._fd >= 0:
            self._write(self._before)

    def _write(self, score: bytes) -> None:
        try:
            os.pwrite(self._fd, score, 0)
        except OSError:
            return


def protect_from_oom() -> None:
    """Make this process the last the kernel kills for memory, where it may (CAP_SYS_RESOURCE)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(SERVER_OOM_SCORE))
