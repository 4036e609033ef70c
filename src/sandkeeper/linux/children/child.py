"""One child of this process, and how it ended."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from typing import Protocol

import msgspec

from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.procstat import zombie_status

__all__ = ["Child", "ExitStatus"]


class ExitStatus(msgspec.Struct, frozen=True):
    """How a process ended: `code` of an exit, else `signal`; both None when nobody can know.

    `cpu_seconds` and `peak_rss_bytes` cover the process and the descendants it waited for
    (getrusage(2)); None where only the kernel's exit record was at hand. The peak is also None when
    it is below our own: the kernel counts what a child shared with us until its exec.
    """

    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None

    @classmethod
    def of_wait(
        cls,
        status: int,
        usage: resource.struct_rusage | None = None,
        is_others: Callable[[int], bool] | None = None,
    ) -> "ExitStatus":
        """Translate a wait status (wait(2)); `is_others` says of which peak nothing is known."""
        cpu = usage.ru_utime + usage.ru_stime if usage else None
        rss = usage.ru_maxrss * 1024 if usage else None
        if rss is not None and is_others is not None and is_others(rss):
            rss = None
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status), os.WCOREDUMP(status), cpu, rss)
        return cls(os.WEXITSTATUS(status), None, False, cpu, rss)


class Owner(Protocol):
    """Who keeps account of children (`linux.children.children`)."""

    def reap_later(self, pid: int) -> None:
        """A tracer holds the zombie: it can be reaped only later."""

    def forget(self, pid: int) -> None:
        """It is reaped."""

    def may_have_shared(self, peak: int) -> bool:
        """Say whether a peak of memory may be the one of before the exec."""


class Child:
    """A child of this process and leader of its own process group."""

    def __init__(self, pid: int, pidfd: int, owner: Owner) -> None:
        self.pid = pid
        self.pidfd = OwnedFd(pidfd)
        self._owner = owner
        self._reaped = False

    def __repr__(self) -> str:
        return f"<Child {self.pid}{' reaped' if self._reaped else ''}>"

    @property
    def reaped(self) -> bool:
        """Whether the status has been taken."""
        return self._reaped

    def has_exited(self) -> bool:
        """Say whether it is over, without taking its status."""
        if self._reaped:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PIDFD, self.pidfd.number, flags) is not None

    def reap(self) -> ExitStatus:
        """Take the status of an exited child and close its pidfd; call once. Never blocks."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        self._reaped = True
        self.pidfd.close()
        if not pid:
            self._owner.reap_later(self.pid)
            told = zombie_status(self.pid)
            return ExitStatus() if told is None else ExitStatus.of_wait(told)
        self._owner.forget(self.pid)
        return ExitStatus.of_wait(status, usage, self._owner.may_have_shared)

    def signal_group(self, number: int) -> None:
        """Signal the whole group; raises ProcessLookupError when the child has been reaped.

        A group can be unsignalable (all members changed their group); then the child alone is.
        """
        if self._reaped:
            raise ProcessLookupError(errno.ESRCH, "no such process")
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.pidfd.number, number)
