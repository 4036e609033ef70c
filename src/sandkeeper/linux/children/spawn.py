"""What is to be started as a process, and the start of one as our own user."""

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from sandkeeper.linux import libc
from sandkeeper.linux.children import spawner_main
from sandkeeper.linux.children.sessions import spawn_session
from sandkeeper.linux.identity import Identity

__all__ = ["Spawn", "start_own"]

CHILD_OOM_SCORE = 500
CLOSE_RANGE_CLOEXEC = 4
PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores for its own sake, and no program of others is to."""

_UNFIT = frozenset((subprocess.PIPE, subprocess.STDOUT, 0, 1, 2))
"""What no stream may be for posix_spawn(3): one could be overwritten before it is copied."""

_can_keep = True


class Spawn(msgspec.Struct):
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
    rlimits: Mapping[int, int] = msgspec.field(default_factory=dict)
    terminal: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether the program runs as another user than the server."""
        return self.identity is not None and not self.identity.is_ours


class _Popen(subprocess.Popen[bytes]):
    """A Popen that only starts: its destructor would put the child on a list that others reap."""

    def __del__(self, *_args: Any, **_kwargs: Any) -> None:
        pass


def start_own(spec: Spawn) -> int:
    """Start a program as our own user; raises OSError, ValueError. Nobody reaps it by itself.

    Returns its pid.
    """
    program = _program(spec)
    if program and _keep_ours():
        argv, streams = list(spec.argv), _streams(spec)
        if spec.new_session:
            return spawn_session(program, argv, spec.env, streams, PYTHONS)
        return os.posix_spawn(
            program, argv, spec.env, file_actions=streams, setsigdef=PYTHONS, setpgroup=0
        )
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
        ).pid
    except subprocess.SubprocessError:  # the preparation failed; why stays with the child
        raise OSError(errno.EPERM, "it could not be prepared") from None


def _program(spec: Spawn) -> str:
    """Return the file to execute where posix_spawn(3) can do all that is due, else "".

    It is `subprocess` without its Python: a quarter of a millisecond of each start. What is wrong
    with the words or the variables is for `subprocess` to tell.
    """
    if spec.cwd is not None or spec.pass_fds or spec.cgroups or spec.rlimits:
        return ""
    if not _UNFIT.isdisjoint((spec.stdin, spec.stdout, spec.stderr)):
        return ""
    if not spec.argv or "" in spec.env or "=" in "".join(spec.env):
        return ""
    # In another thread an upgrade could be leaving descriptors to its successor (`_keep_ours`).
    if threading.get_ident() != threading.main_thread().ident:
        return ""
    name = spec.argv[0]
    return name if "/" in name else shutil.which(name, path=spec.env.get("PATH", os.defpath)) or ""


def _streams(spec: Spawn) -> list[tuple[Any, ...]]:
    """Return what posix_spawn(3) does for the standard streams, by then in the new session.

    A terminal that is opened there becomes the controlling one (tty(4), TIOCSCTTY): no program has
    to be told, so no fork of ours has to run any Python, for which a lock may be held for ever.
    """
    if spec.terminal:
        opened = (os.POSIX_SPAWN_OPEN, 0, f"/proc/self/fd/{spec.stdin}", os.O_RDWR, 0)
        return [opened, *((os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2))]
    made: list[tuple[Any, ...]] = []
    for number, fd in enumerate((spec.stdin, spec.stdout, spec.stderr)):
        if fd == subprocess.DEVNULL:
            made.append((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0))
        else:
            made.append((os.POSIX_SPAWN_DUP2, fd, number))
    return made


def _keep_ours() -> bool:
    """Have exec close every descriptor above the standard ones; False where it must be done there.

    Python opens all of them so, but whoever started us may have left us others.
    """
    global _can_keep
    if _can_keep:
        try:
            libc.call("close_range", 3, ctypes.c_uint(0xFFFFFFFF), CLOSE_RANGE_CLOEXEC)
        except OSError:  # Linux before 5.11, glibc before 2.34, or a filter that does not know it
            _can_keep = False
    return _can_keep


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
