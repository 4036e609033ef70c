"""Becoming another version in this very process: the plan of the guard, and the exec.

The kernel keeps the process id, the children, the working directory and every descriptor that is
inheritable. What else must go on is in the two servers' common document (upgrade.handover).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper import __version__
from sandkeeper.linux.dispositions import ignore_again
from sandkeeper.linux.paths.statefiles import (
    Damaged,
    UntrustedFile,
    decoded,
    read_own,
    write_atomically,
)
from sandkeeper.upgrade import guard
from sandkeeper.upgrade.handover import Handover
from sandkeeper.upgrade.install import Installation, package_roots

__all__ = ["Successor", "become", "go_on_upgraded", "remember", "started"]

CURRENT = "current.json"
ATTEMPTS = "attempts"
TRIES = 3


class Successor(msgspec.Struct, frozen=True):
    """Who comes next, the environment of its process, the seconds in which it must answer."""

    installation: Installation
    environment: Mapping[str, str]
    seconds: float


def become(successor: Successor, document: Handover, address: tuple[str, int]) -> None:
    """Exec the new version under its guard; only returns by raising OSError.

    `document.listeners` are the listening sockets; `address` is where the first can be reached. If
    the exec itself fails, this version is started again in the same way.
    """
    from packaging.version import Version  # only needed here

    for held in document.connections:
        os.set_inheritable(held.fd, True)
    kept = document.listeners
    # An older version may know of the first only: clients would wait at the others for ever.
    knows_all = Version(successor.installation.version) >= Version(__version__)
    document.listeners = [_inheritable_copy(fd) for fd in (kept if knows_all else kept[:1])]
    document.listener = document.listeners[0]
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_inheritable(read_end, True)
    os.set_inheritable(write_end, True)
    document.verdict = read_end
    for number in kept:
        os.set_inheritable(number, True)
    fd = document.write()
    arguments = ["--handover", str(fd)]
    back = _plan_fd({"run": arguments, "paths": package_roots()})
    back_arguments = [sys.executable, "-I", guard.__file__, str(back)]
    count = document.count
    back_environment = {**successor.environment, "SANDBOX_UPGRADE_COUNT": str(count)}
    plan = _plan_fd(
        {
            "run": arguments,
            "handover": fd,
            "listener": kept[0],
            "listeners": kept,
            "verdict": write_end,
            "ignored": ignore_again(),
            "address": [*address, successor.installation.version, successor.seconds],
            "back": {"arguments": back_arguments, "environment": back_environment, "plan": back},
        }
    )
    python = str(successor.installation.python)
    environment = {**successor.environment, "SANDBOX_UPGRADE_COUNT": str(count + 1)}
    try:
        os.execve(python, [python, "-I", guard.__file__, str(plan)], environment)
    except OSError as error:
        document.failed = f"it cannot be executed: {error.strerror}"
        document.listener, document.listeners = kept[0], kept
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(document), 0)
        os.execve(sys.executable, back_arguments, back_environment)


def _inheritable_copy(fd: int) -> int:
    copy = os.dup(fd)
    os.set_inheritable(copy, True)
    return copy


def _plan_fd(plan: dict[str, object]) -> int:
    fd = os.memfd_create("sandkeeper-plan", os.MFD_CLOEXEC)
    os.fchmod(fd, 0o600)  # the environment is in it
    os.write(fd, msgspec.json.encode(plan))
    os.set_inheritable(fd, True)
    return fd


class _Current(msgspec.Struct):
    """Which version is to run after a restart; `base` is the one that is installed."""

    base: str
    python: str
    count: int


def remember(versions: Path, base: str, count: int) -> None:
    """Have later starts go on with the version that runs now; raises OSError."""
    current = _Current(base, sys.executable, count)
    write_atomically(versions / CURRENT, msgspec.json.encode(current))


def _may_try(versions: Path) -> bool:
    """Note a try, and say whether there were fewer than `TRIES` since a start came to its end.

    A version that was damaged on the disk would else keep the sandbox down for good.
    """
    path = versions / ATTEMPTS
    try:
        tries = len(read_own(path) or b"")
        if tries >= TRIES:
            return False
        write_atomically(path, b"." * (tries + 1))
    except (OSError, UntrustedFile):
        return True  # nothing can be noted: as it was before
    return True


def started(versions: Path) -> bool:
    """Forget the tries: a server has started; says whether an upgraded one had not."""
    path = versions / ATTEMPTS
    try:
        tries = len(read_own(path) or b"")
        path.unlink(missing_ok=True)
    except (OSError, UntrustedFile):
        return False
    return tries >= TRIES


def go_on_upgraded(
    versions: Path, arguments: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Become the version an earlier server was upgraded to, if there is one, and it is still there.

    Another base than that server's is another image, whose version then counts. Returns otherwise.
    """
    try:
        data = read_own(versions / CURRENT)
        current = decoded(data, _Current) if data else None
    except (OSError, UntrustedFile, Damaged):
        return
    if current is None or current.base != __version__ or sys.executable == current.python:
        return
    if not _may_try(versions):
        return
    variables = {**environment, "SANDBOX_UPGRADE_COUNT": str(current.count)}
    argv = [current.python, "-I", "-m", "sandkeeper", *arguments]
    with suppress(OSError, ValueError):  # a name that no file can have
        os.execve(current.python, argv, variables)
