"""Who is killed first when memory runs out: proc_pid_oom_score_adj(5)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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

    @contextmanager
    def held_at(self, score: int | None) -> Iterator[None]:
        """Have `score` while inside; None leaves it as it is, and so does a kernel that refuses."""
        if score is None or self._fd < 0:
            yield
            return
        before = os.pread(self._fd, 16, 0).strip()
        with suppress(OSError):
            os.pwrite(self._fd, b"%d" % score, 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.pwrite(self._fd, before, 0)


def protect_from_oom() -> None:
    """Make this process the last the kernel kills for memory, where it may (CAP_SYS_RESOURCE)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(SERVER_OOM_SCORE))
