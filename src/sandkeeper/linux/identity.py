"""The workload's user: who processes run as and whom file operations act for.

File operations act for the user by the effective user and group of one thread and the thread's own
supplementary groups: the raw setresuid(2), setresgid(2) and setgroups(2) calls, where the C
library's would change every thread. Leaving the effective uid 0 also empties the thread's effective
capabilities (capabilities(7)), so the kernel itself checks every path, symbolic link and mode as
for that user, and what is made belongs to it. setfsuid(2) is not enough: it keeps CAP_SYS_PTRACE,
CAP_SETFCAP and their kin, and /proc/sys goes by the effective uid, so that a file operation could
write kernel.core_pattern, which is to become root. The real and saved uids stay the server's, so
the user can neither signal nor trace the thread. Why not a helper process: each operation would
have to be written twice and sent across, descriptors too, and a walk of a large tree would cost a
copy of every name. The price here is some ten system calls, about five microseconds.

What it does not change: signals, ptrace and access(2) go by the real user (`os.access` answers for
root, use `effective_ids=True`), and a thread started inside inherits the user. So: only system
calls inside, no `await`, no new threads, no children (those get `Spawn.identity`).
"""

import ctypes
import grp
import os
import pwd
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import msgspec

from sandkeeper.linux import libc
from sandkeeper.numerals import natural

__all__ = ["HERE", "Identity", "UnusableUser", "acting_for", "is_acting"]

INVALID = 0xFFFFFFFF  # (uid_t)-1 means "leave it": setfsuid(-1) would keep root
CALLS = {  # setgroups, setresgid, setresuid; the 32-bit ones in their forms with 32-bit ids
    "x86_64": (116, 119, 117),
    "aarch64": (159, 149, 147),
    "riscv64": (159, 149, 147),
    "s390x": (206, 210, 208),
    "ppc64le": (81, 169, 164),
    "armv7l": (206, 210, 208),
}
KEEP = -1


class _Here(threading.local):
    """Whom this thread acts for."""

    identity: "Identity | None" = None


HERE = _Here()


class UnusableUser(Exception):
    """The configured user cannot be found, or cannot be acted for; the text says why."""


class Identity(msgspec.Struct, frozen=True):
    """A user of the machine; `groups` are supplementary group ids."""

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...] = ()

    @classmethod
    def resolve(cls, text: str, *, root: bool = False) -> "Identity":
        """Find the user of `name|uid[:group|gid]`; raises UnusableUser.

        An unknown uid has gid=uid, home `/` and no groups, and a group that is left out after the
        colon is the user's own. Supplementary groups are those
        initgroups(3) would set. What the kernel takes for "no change" is refused, and so is root
        unless `root`.
        """
        wanted, _, group = text.partition(":")
        if not wanted:
            raise UnusableUser(f"{text!r} is not a user: use name|uid[:group|gid]")
        entry = _entry(wanted)
        uid = entry.pw_uid if entry else _number(wanted, "user")
        gid = _gid(group) if group else (entry.pw_gid if entry else uid)
        if uid == 0 and not root:
            raise UnusableUser(f"{text!r} is root: processes and files need a user of their own")
        name = entry.pw_name if entry else str(uid)
        groups = tuple(os.getgrouplist(name, gid)) if entry else ()
        return cls(uid, gid, name, (entry.pw_dir if entry else "") or "/", groups)

    @property
    def is_ours(self) -> bool:
        """Whether the server itself runs as this user, so that there is nothing to change."""
        return os.getuid() == os.geteuid() == self.uid and os.getgid() == self.gid

    def variables(self) -> dict[str, str]:
        """Return the variables that processes of this user must see."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    def may_write(self, status: os.stat_result) -> bool:
        """Say whether this user can write a file of that state, or allow itself to."""
        groups = {self.gid, *self.groups}
        return (
            status.st_uid == self.uid
            or bool(status.st_mode & stat.S_IWOTH)
            or (bool(status.st_mode & stat.S_IWGRP) and status.st_gid in groups)
        )

    def check(self) -> None:
        """Act for the user once; raises UnusableUser when the kernel does not let us.

        Without CAP_SETUID and CAP_SETGID, or with a uid that a user namespace does not map, every
        operation would fail later, or be done as root.
        """
        try:
            with self.acting():
                os.stat("/")
        except OSError as error:
            raise UnusableUser(f"cannot act for {self.name}: {error.strerror}") from error

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Make this thread's file operations those of this user while inside.

        Raises OSError when the kernel refuses; nothing has been changed then.
        """
        if self.is_ours or HERE.identity == self:
            yield
            return
        if HERE.identity is not None:
            raise RuntimeError("this thread acts for another user already")
        before = _Credentials.current()
        try:
            _Credentials(self.uid, self.gid, self.groups).take()
            HERE.identity = self
            yield
        finally:
            HERE.identity = None
            before.take()


def acting_for(identity: Identity | None) -> AbstractContextManager[None]:
    """Act for `identity`, or as the server when there is none."""
    return identity.acting() if identity is not None else nullcontext()


def is_acting() -> bool:
    """Say whether this thread acts for another user than the server's."""
    return HERE.identity is not None


class _Credentials(msgspec.Struct, frozen=True):
    """What a thread's file operations go by."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def current(cls) -> "_Credentials":
        return cls(os.geteuid(), os.getegid(), tuple(os.getgroups()))

    def take(self) -> None:
        """Take them on in this thread only; raises OSError when the kernel refuses a part.

        The uid changes last on the way down and first on the way up: the capability to change the
        rest goes and comes with it.
        """
        setgroups, setresgid, setresuid = _calls()
        now = _Credentials.current()
        if now.uid != self.uid and self.uid == os.getuid():
            _call(setresuid, KEEP, self.uid, KEEP)
        if set(now.groups) != set(self.groups):
            _call(setgroups, len(self.groups), (ctypes.c_uint32 * len(self.groups))(*self.groups))
        _call(setresgid, KEEP, self.gid, KEEP)
        _call(setresuid, KEEP, self.uid, KEEP)


def _calls() -> tuple[int, int, int]:
    numbers = CALLS.get(os.uname().machine)
    if numbers is None:
        raise PermissionError(1, f"the user of a thread cannot be set on {os.uname().machine}")
    return numbers


def _call(number: int, *arguments: Any) -> None:
    try:
        libc.system_call(number, *arguments)
    except OSError as error:
        why = f"this server may not change its user: {error.strerror}"
        raise OSError(error.errno, why) from None


def _entry(wanted: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(wanted)) if natural(wanted) is not None else pwd.getpwnam(wanted)
    except KeyError:
        if natural(wanted) is not None:
            return None
        raise UnusableUser(f"there is no user {wanted!r}") from None
    except (OverflowError, ValueError):
        raise UnusableUser(f"{wanted!r} is not a usable user") from None


def _gid(group: str) -> int:
    if natural(group) is not None:
        return _number(group, "group")
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise UnusableUser(f"there is no group {group!r}") from None


def _number(text: str, kind: str) -> int:
    value = natural(text, INVALID)
    if value is None or value == INVALID:
        raise UnusableUser(f"{text!r} is not a usable {kind} id")
    return value
