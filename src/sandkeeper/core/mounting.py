"""Mounts: the kernel's table, mount(2), umount(2), and looks at mounts that may never answer."""

import asyncio
import ctypes
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

__all__ = [
    "Mount",
    "bind_mount",
    "bounded",
    "mounts",
    "parse_mounts",
    "unescape",
    "unmount",
    "unmount_lazily",
]

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
_ESCAPE = re.compile(r"\\([0-7]{3})")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table, unescaped; `options` as the kernel writes them."""

    source: str
    path: str
    kind: str
    options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return "ro" in self.options


def unescape(text: str) -> str:
    """Replace the table's octal escapes; options keep theirs until somebody reads one."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def parse_mounts(text: str) -> list[Mount]:
    """Read a table in the form of fstab(5): blanks and backslashes in names are octal escapes."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 4:
            source, path, kind = (unescape(field) for field in fields[:3])
            found.append(Mount(source, path, kind, tuple(fields[3].split(","))))
    return found


def mounts() -> list[Mount]:
    """Return all mounts, a later one over an earlier one on the same path; never waits for them."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mounts(file.read())


@lru_cache(maxsize=1)
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, path: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def bind_mount(source: str, target: str, *, through: str, read_only: bool) -> None:
    """Show the folder `source` at `target` as well; raises OSError as mount(2) does.

    `through` names the target by an open descriptor, which no link can lead elsewhere.
    """
    libc = _libc()
    _check(libc.mount(os.fsencode(source), os.fsencode(through), None, MS_BIND, None), target)
    if read_only:  # the kernel takes the flag only in a second step
        flags = MS_BIND | MS_REMOUNT | MS_RDONLY
        try:
            _check(libc.mount(None, os.fsencode(target), None, flags, None), target)
        except OSError:
            unmount(target, lazy=True)
            raise


def unmount(path: str, *, lazy: bool = False) -> None:
    """Unmount; `lazy` takes it out of sight at once. Blocks while data is written back.

    Raises OSError as umount2(2) does: EBUSY while in use, EINVAL when nothing is mounted there.
    """
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    _check(_libc().umount2(os.fsencode(path), flags), path)


def unmount_lazily(path: str) -> None:
    """Take a mount out of sight at once; raises OSError."""
    unmount(path, lazy=True)


async def bounded(function: Callable[..., T], *arguments: Any, seconds: float) -> T:
    """Call something that may hang in the kernel; raises TimeoutError after `seconds`.

    It runs in a thread of its own: a call on a dead mount cannot be interrupted, and a thread of a
    pool would be lost to everybody else. The thread ends when the mount is aborted or answers.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            _tell(loop, _fail, done, error)
        else:
            _tell(loop, _succeed, done, result)

    threading.Thread(target=run, name="bounded", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await done


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        return  # the loop is closed: nobody waits any more


def _succeed(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
