"""Mounts: the kernel's table, mount(2) and its kin by descriptor, looks at mounts that may hang.

A name can lead elsewhere a moment after it was judged. So a mount is made on an open folder and
found again by its id: no function here that changes a mount follows a link.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sandkeeper.linux import libc
from sandkeeper.patterns import pattern

__all__ = [
    "PSEUDO",
    "Mount",
    "attach",
    "bind_mount",
    "bounded",
    "mount_id",
    "mounts",
    "open_mount",
    "parse_mounts",
    "proc_mounts",
    "pseudo_mounts",
    "restrict",
    "unescape",
    "unmount",
    "unmount_staged",
    "walk_plainly",
]

PSEUDO = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
        *("devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore"),
        *("resctrl", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    )
)
"""Kinds of file systems that hold no files: /proc, /sys and their like."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND = 32, 4096
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
KEPT_FLAGS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": 1 << 10,
    "nodiratime": 1 << 11,
    "relatime": 1 << 21,
}
"""Flags of one mount by their names in the table; a remount drops those it does not repeat."""

# Of Linux 5.2; their numbers are the same on every machine that this server knows.
OPEN_TREE, MOVE_MOUNT = 428, 429
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40

_ESCAPE = pattern(r"\\([0-7]{3})")
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")


class Mount(msgspec.Struct, frozen=True):
    """One line of the table, unescaped; `options` as the kernel writes them, the mount's own first.

    `id` is unique among what is mounted now; the kernel gives it again later. `device` is as
    `st_dev` of what is there, `root` the folder of that file system which is shown.
    """

    source: str
    path: str
    kind: str
    options: tuple[str, ...]
    id: int = 0
    device: int = 0
    root: str = "/"

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return "ro" in self.options


def unescape(text: str) -> str:
    """Replace the table's octal escapes; options keep theirs until somebody reads one."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def parse_mounts(text: str) -> list[Mount]:
    """Read a table in the form of proc_pid_mountinfo(5): names have octal escapes."""
    found = []
    for line in text.split("\n"):  # a name may hold all else that str.splitlines splits at
        before, _, after = line.partition(" - ")
        own, rest = before.split(" "), after.split(" ")
        if len(own) >= 6 and len(rest) >= 3 and own[0].isdigit():
            options = (*own[5].split(","), *rest[2].split(","))
            path, kind, source = unescape(own[4]), unescape(rest[0]), unescape(rest[1])
            major, _, minor = own[2].partition(":")
            device = os.makedev(int(major), int(minor))
            found.append(Mount(source, path, kind, options, int(own[0]), device, unescape(own[3])))
    return found


def mounts() -> list[Mount]:
    """Return all mounts, a later one over an earlier one on the same path; never waits for them."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mounts(file.read())


def pseudo_mounts() -> list[bytes]:
    """Return where file systems of `PSEUDO` are mounted; none if that cannot be read."""
    try:
        return [os.fsencode(mount.path) for mount in mounts() if mount.kind in PSEUDO]
    except OSError:
        return []


def proc_mounts() -> list[tuple[int, str, str]]:
    """Return device, root within the file system and mount point of every procfs."""
    try:
        return [(one.device, one.root, one.path) for one in mounts() if one.kind == "proc"]
    except OSError:
        return []


def mount_id(fd: int) -> int:
    """Return the id of the mount that an open file lies on (proc_pid_fdinfo(5)); asks no disk."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    raise OSError(errno.ENODATA, "the kernel does not tell the mount of a descriptor")


def _bind(source: bytes | None, target: str, flags: int, path: str) -> None:
    libc.call("mount", source, os.fsencode(target), None, flags | MS_BIND, None, path=path)


def walk_plainly(path: str) -> int:
    """Open a folder, from the root down, by names that are no links (O_PATH); the caller closes it.

    Raises OSError: ELOOP or ENOTDIR at a link.
    """
    fd = os.open("/", _FOLDER)
    try:
        for name in filter(None, path.split("/")):
            below = os.open(name, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def bind_mount(source: int, target: str) -> None:
    """Show the open folder `source` at `target` as well, a path that nobody else can change."""
    origin = f"/proc/self/fd/{source}".encode()
    _bind(origin, target, 0, target)


def restrict(path: str, *, read_only: bool = False, no_privilege: bool = False) -> None:
    """Take rights from the mount at `path`, which nobody else can change; raises OSError.

    `no_privilege`: no set-user-id program and no device works there. Nothing that is taken already
    comes back.
    """
    found = [mount for mount in mounts() if mount.path == path]
    if not found:
        raise OSError(errno.EINVAL, "nothing is mounted", path)
    names = set(found[-1].options)
    names |= {"ro"} if read_only else set()
    names |= {"nosuid", "nodev"} if no_privilege else set()
    flags = sum(flag for name, flag in KEPT_FLAGS.items() if name in names)
    _bind(None, path, flags | MS_REMOUNT, path)


def attach(staged: str, target: int) -> int:
    """Show the mount at `staged` on the open folder `target`, too; returns the new mount's id.

    It has the flags of `staged` from its first moment. `staged` is a path that nobody else can
    change. Raises OSError: ENOENT when the folder was removed meanwhile.
    """
    try:
        tree = _open_tree(staged)
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
        return _attach_by_name(staged, target)  # a sandbox that knows no call of Linux 5.2
    try:
        flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
        libc.system_call(MOVE_MOUNT, tree, b"", target, b"", flags, path=staged)
        return mount_id(tree)
    finally:
        os.close(tree)


def _open_tree(staged: str) -> int:
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    name = os.fsencode(staged)
    return libc.system_call(OPEN_TREE, libc.AT_FDCWD, name, flags, path=staged)


def _attach_by_name(staged: str, target: int) -> int:
    """The same by mount(2): a bind of a mount has its flags, and a descriptor has a name."""
    before = {mount.id for mount in mounts()}
    through = f"/proc/self/fd/{target}"
    _bind(os.fsencode(staged), through, 0, staged)
    where = os.readlink(through)
    made = [mount.id for mount in mounts() if mount.path == where and mount.id not in before]
    return made[-1] if made else 0


def open_mount(path: str, wanted: int) -> int:
    """Open the root of the mount with the id `wanted` at `path` (O_PATH); the caller closes it.

    0 is any id. It is busy as long. Asks no disk but those that the path leads through. Raises
    OSError, EINVAL when another mount or none is there.
    """
    folder, name = _folder_of(path)
    try:
        return _open_root(folder, name, wanted)
    finally:
        os.close(folder)


def _folder_of(path: str) -> tuple[int, str]:
    above, name = os.path.split(path)
    return walk_plainly(above), name


def _open_root(folder: int, name: str, wanted: int) -> int:
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if wanted and mount_id(fd) != wanted:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unmount(path: str, wanted: int = 0, *, lazy: bool = False) -> None:
    """Unmount what is at `path`, with `wanted` only a mount of that id; follows no link.

    `lazy` takes it out of sight at once; otherwise it blocks while data is written back. Raises
    OSError as umount2(2) does: EBUSY while in use, EINVAL when it is not there.
    """
    folder, name = _folder_of(path)
    try:
        if wanted:
            os.close(_open_root(folder, name, wanted))
        # By the folder, for a descriptor of the mount itself would keep it busy.
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
        where = os.fsencode(f"/proc/self/fd/{folder}/{name}")
        libc.call("umount2", where, flags, path=path)
    finally:
        os.close(folder)


def unmount_staged(path: str) -> None:
    """Take away whatever is mounted at a path of our own, and the folder; raises nothing."""
    with suppress(OSError):
        while any(mount.path == path for mount in mounts()):
            unmount(path, lazy=True)
    with suppress(OSError):
        os.rmdir(path)


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
