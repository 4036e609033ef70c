"""Becoming another version in this very process: the plan of the guard, and the exec.

The kernel keeps the process id, the children, the working directory and every descriptor that is
inheritable. What else must go on is in the two servers' common document (core.handover).
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from sandkeeper.core import guard
from sandkeeper.core.handover import Handover
from sandkeeper.services.upgrade_install import Installation, package_roots

__all__ = ["Successor", "become"]


@dataclass(frozen=True, slots=True)
class Successor:
    """Who comes next, the environment of its process, the seconds in which it must answer."""

    installation: Installation
    environment: Mapping[str, str]
    seconds: float


def become(successor: Successor, document: Handover, address: tuple[str, int]) -> None:
    """Exec the new version under its guard; only returns by raising OSError.

    `document.listener` is the listening socket; `address` is where that can be reached. If the exec
    itself fails, this version is started again in the same way.
    """
    for held in document.connections:
        os.set_inheritable(held.fd, True)
    kept = document.listener
    document.listener = _inheritable_copy(kept)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_inheritable(read_end, True)
    os.set_inheritable(write_end, True)
    document.verdict = read_end
    os.set_inheritable(kept, True)
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
            "listener": kept,
            "verdict": write_end,
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
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(document), 0)
        os.execve(sys.executable, back_arguments, back_environment)


def _inheritable_copy(fd: int) -> int:
    copy = os.dup(fd)
    os.set_inheritable(copy, True)
    return copy


def _plan_fd(plan: dict[str, object]) -> int:
    fd = os.memfd_create("sandkeeper-plan", os.MFD_CLOEXEC)
    os.write(fd, msgspec.json.encode(plan))
    os.set_inheritable(fd, True)
    return fd
