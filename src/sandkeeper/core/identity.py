"""The workload's user: who processes run as and whom file operations act for.

File operations act for the user by setfsuid(2) and setfsgid(2), which the kernel keeps for each
thread, together with the thread's own supplementary groups (the raw setgroups(2) call; the C
library's would change every thread). Leaving fsuid 0 also takes the thread's file capabilities
(CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_CHOWN and their kin, capabilities(7)), so the kernel itself
checks every path, symbolic link and mode as for that user, and what is made belongs to it. Why not
a helper process: each operation would have to be written twice and sent across, descriptors too,
and a walk of a large tree would cost a copy of every name. The price here is some ten system
calls, about five microseconds.

What it does not change: signals, ptrace and access(2) go by the real user (`os.access` answers for
root, use `effective_ids=True`), and a thread started inside inherits the user. So: only system
calls inside, no `await`, no new threads, no children (those get `Spawn.identity`).
"""

import ctypes
import grp
import os
import platform
import pwd
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

__all__ = ["Identity", "UnusableUser", "acting_for"]

INVALID = 0xFFFFFFFF  # (uid_t)-1 means "leave it": setfsuid(-1) would keep root
SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "s390x": 206, "ppc64le": 81}

_libc = ctypes.CDLL(None, use_errno=True)
_here = threading.local()


class UnusableUser(Exception):
    """The configured user cannot be found, or cannot be acted for; the text says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user of the machine; `groups` are supplementary group ids."""

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...] = ()

    @classmethod
    def resolve(cls, text: str) -> "Identity":
        """Find the user of `name|uid[:group|gid]`; raises UnusableUser.

        An unknown uid has gid=uid, home `/` and no groups. Supplementary groups are those
        initgroups(3) would set. Root and what the kernel takes for "no change" are refused.
        """
        wanted, colon, group = text.partition(":")
        if not wanted or (colon and not group):
            raise UnusableUser(f"{text!r} is not a user: use name|uid[:group|gid]")
        entry = _entry(wanted)
        uid = entry.pw_uid if entry else _number(wanted, "user")
        gid = _gid(group) if group else (entry.pw_gid if entry else uid)
        if uid == 0:
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

        Raises PermissionError when the kernel refuses; nothing has been changed then.
        """
        if self.is_ours or getattr(_here, "identity", None) == self:
            yield
            return
        if getattr(_here, "identity", None) is not None:
            raise RuntimeError("this thread acts for another user already")
        before = _Credentials.current()
        try:
            _Credentials(self.uid, self.gid, self.groups).take()
            _here.identity = self
            yield
        finally:
            _here.identity = None
            before.take()


def acting_for(identity: Identity | None) -> AbstractContextManager[None]:
    """Act for `identity`, or as the server when there is none."""
    return identity.acting() if identity is not None else nullcontext()


@dataclass(frozen=True, slots=True)
class _Credentials:
    """What a thread's file operations go by."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def current(cls) -> "_Credentials":
        uid, gid = _unsigned(_libc.setfsuid(-1)), _unsigned(_libc.setfsgid(-1))
        return cls(uid, gid, tuple(os.getgroups()))

    def take(self) -> None:
        """Take them on; groups first, for which the capability must still be there.

        setfsuid and setfsgid report no errors, so what they did is read back.
        """
        if set(os.getgroups()) != set(self.groups):
            _set_groups(self.groups)
        _libc.setfsgid(self.gid)
        _libc.setfsuid(self.uid)
        if _unsigned(_libc.setfsuid(-1)) != self.uid or _unsigned(_libc.setfsgid(-1)) != self.gid:
            raise PermissionError(1, "the kernel does not let this server change its user")


def _unsigned(number: int) -> int:
    return number & INVALID


def _set_groups(groups: tuple[int, ...]) -> None:
    number = SETGROUPS.get(platform.machine())
    if number is None:
        raise PermissionError(1, f"groups of a thread cannot be set on {platform.machine()}")
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if _libc.syscall(number, len(groups), array):
        code = ctypes.get_errno()
        raise PermissionError(code, f"groups cannot be set: {os.strerror(code)}")


def _entry(wanted: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(wanted)) if _is_number(wanted) else pwd.getpwnam(wanted)
    except KeyError:
        if _is_number(wanted):
            return None
        raise UnusableUser(f"there is no user {wanted!r}") from None
    except (OverflowError, ValueError):
        raise UnusableUser(f"{wanted!r} is not a usable user") from None


def _gid(group: str) -> int:
    if _is_number(group):
        return _number(group, "group")
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise UnusableUser(f"there is no group {group!r}") from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _number(text: str, kind: str) -> int:
    value = int(text) if len(text) < 12 else INVALID
    if value >= INVALID:
        raise UnusableUser(f"{text!r} is not a usable {kind} id")
    return value
