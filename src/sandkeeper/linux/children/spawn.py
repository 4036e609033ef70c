"""What is to be started as a process, and the start of one as our own user."""

import errno
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandkeeper.linux.children import spawner_main
from sandkeeper.linux.identity import Identity

__all__ = ["Spawn", "start_own"]

CHILD_OOM_SCORE = 500


@dataclass(frozen=True, slots=True)
class Spawn:
    """What to start. Descriptors are the caller's to close; `-3` is /dev/null (subprocess.DEVNULL).

    `nofile` is the soft limit of open files the child gets (the server raises its own). `cwd` is
    entered as `identity` could: a folder below one that is closed to it stays closed. The child
    enters the `cgroups` of open `cgroup.procs`, gets the `rlimits` (setrlimit(2), never above what
    it has) and, if `terminal`, standard input as its controlling terminal.
    """

    argv: Sequence[str]
    env: dict[str, str]
    cwd: str | None = None
    stdin: int = subprocess.DEVNULL
    stdout: int = subprocess.DEVNULL
    stderr: int = subprocess.DEVNULL
    identity: Identity | None = None
    oom_score: int | None = CHILD_OOM_SCORE
    nofile: int | None = None
    new_session: bool = False
    pass_fds: Sequence[int] = ()
    cgroups: Sequence[int] = ()
    rlimits: Mapping[int, int] = field(default_factory=dict)
    terminal: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether the program runs as another user than the server."""
        return self.identity is not None and not self.identity.is_ours


class _Popen(subprocess.Popen[bytes]):
    """A Popen that only starts: its destructor would put the child on a list that others reap."""

    def __del__(self, *_args: Any, **_kwargs: Any) -> None:
        pass


def start_own(spec: Spawn) -> subprocess.Popen[bytes]:
    """Start a program as our own user; raises OSError, ValueError. Nobody reaps it by itself."""
    try:
        return _Popen(
            list(spec.argv),
            env=spec.env,
            cwd=spec.cwd,
            stdin=spec.stdin,
            stdout=spec.stdout,
            stderr=spec.stderr,
            pass_fds=spec.pass_fds,
            preexec_fn=_preparation(spec),
            **({"start_new_session": True} if spec.new_session else {"process_group": 0}),
        )
    except subprocess.SubprocessError:  # the preparation failed; why stays with the child
        raise OSError(errno.EPERM, "it could not be prepared") from None


def _preparation(spec: Spawn) -> Callable[[], None] | None:
    """Return what the child runs before its exec: system calls only; None where nothing is due."""
    if not (spec.cgroups or spec.rlimits or spec.terminal):
        return None

    def prepare() -> None:
        spawner_main.enter_cgroups(spec.cgroups)
        if spec.terminal:
            spawner_main.become_terminal()
        spawner_main.limit_resources(dict(spec.rlimits))

    return prepare
