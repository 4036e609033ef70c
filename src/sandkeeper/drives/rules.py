"""What may be mounted where by whom: names, paths, maps. Pure functions; most raise BadInput."""

import os
import posixpath
import sys
from enum import IntEnum

import msgspec
from msgspec.structs import replace

from sandkeeper.errors import BadInput, Forbidden, Task
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.below import is_within
from sandkeeper.numerals import natural
from sandkeeper.patterns import pattern

__all__ = [
    "Drive",
    "Reach",
    "checked",
    "clean_mount_path",
    "own_places",
    "refuse_beyond_reach",
    "refuse_system_folder",
]

NAME_LENGTH = 128
PATH_LENGTH = 512
_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_CONTROL = pattern(r"[\x00-\x1f\x7f]")
SYSTEM_TREES = (
    *("/proc", "/sys", "/dev", "/boot", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/etc", "/run", "/var/run", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32"),
    *("/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/local/bin", "/usr/local/sbin"),
    *("/usr/local/lib",),
)
SYSTEM_FOLDERS = (
    *("/", "/home", "/root", "/tmp", "/var", "/var/lib", "/var/log", "/var/tmp", "/usr"),
    *("/usr/local", "/usr/share", "/usr/include", "/usr/src"),
)


class Reach(IntEnum):
    """How far a caller's word goes where the workload has a user of its own.

    OWN: drives that belong to that user, on folders that do. DRIVES: any drive, also those whose
    program acts with the server's rights, but on the user's folders only. ALL: as the operator.
    """

    OWN = 0
    DRIVES = 1
    ALL = 2


class Drive(msgspec.Struct, frozen=True):
    """What a caller wants mounted; the maps are decimal ids or empty, `driver` may be empty."""

    name: str
    mount_path: str
    drive_path: str = "/"
    read_only: bool = False
    uid_map: str = ""
    gid_map: str = ""
    driver: str = ""


def checked(drive: Drive) -> Drive:
    """Return the drive with its paths cleaned, by the contract's rules in the contract's order."""
    if len(drive.name) > NAME_LENGTH or not _NAME.fullmatch(drive.name):
        raise BadInput(
            "it takes letters, digits, - and _, begins with a letter or digit "
            f"and has {NAME_LENGTH} characters at most",
            task=Task.ACCEPT_DRIVE,
            about="drive name",
        )
    mount_path = clean_mount_path(drive.mount_path)
    drive_path = _clean_drive_path(drive.drive_path)
    for kind, value in (("uid", drive.uid_map), ("gid", drive.gid_map)):
        if value and natural(value, 1 << 32) in {None, 1 << 32}:
            raise BadInput(
                f"{value!r} is not a number of a user or group",
                task=Task.ACCEPT_DRIVE,
                about=f"{kind} map",
            )
    return replace(drive, mount_path=mount_path, drive_path=drive_path)


def clean_mount_path(path: str) -> str:
    """Return a mount path as it stands in the kernel's table."""
    if not path.strip("/"):
        raise BadInput("Mount path is required (must start with /)")
    if len(path) > PATH_LENGTH:
        raise BadInput(f"longer than {PATH_LENGTH} characters", task=Task.ACCEPT_MOUNT_PATH)
    _refuse_parts(path, "mount path")
    return "/" + posixpath.normpath(path).lstrip("/")


def _clean_drive_path(path: str) -> str:
    if not path:
        return "/"
    if not path.startswith("/"):
        raise BadInput("Drive path must start with /", task=Task.ACCEPT_DRIVE, about="drive path")
    if len(path) > PATH_LENGTH:
        raise BadInput(
            f"longer than {PATH_LENGTH} characters", task=Task.ACCEPT_DRIVE, about="drive path"
        )
    _refuse_parts(path, "drive path")
    return "/" + posixpath.normpath(path).lstrip("/")


def _refuse_parts(path: str, what: str) -> None:
    if ".." in path.split("/"):
        raise BadInput("it must not contain ..", task=Task.ACCEPT_DRIVE, about=what)
    if _CONTROL.search(path):
        raise BadInput("it must not contain control characters", task=Task.ACCEPT_DRIVE, about=what)


def refuse_system_folder(path: str, *also: str) -> None:
    """Refuse what the machine or we live on; `also` are further trees, with what is above them."""
    for tree in SYSTEM_TREES:
        if is_within(path, tree):
            raise BadInput(f"{path} belongs to the system", task=Task.ACCEPT_MOUNT_PATH)
    if path in SYSTEM_FOLDERS:
        raise BadInput(f"{path} belongs to the system", task=Task.ACCEPT_MOUNT_PATH)
    for tree in also:
        if is_within(path, tree) or is_within(tree, path):
            raise BadInput(f"{path} is needed by the server", task=Task.ACCEPT_MOUNT_PATH)


def own_places() -> list[str]:
    """Return the trees that this program is made of: its prefixes and what it imports from.

    A prefix such as /usr holds far more than Python: there it is what is imported from that counts.
    """
    trees = {sys.prefix, sys.base_prefix, sys.exec_prefix} - {"/", *SYSTEM_FOLDERS}
    trees |= {os.path.abspath(entry) for entry in sys.path if entry}
    return sorted(trees | {os.path.realpath(tree) for tree in trees})


def refuse_beyond_reach(drive: Drive, asked: Drive, reach: Reach, workload: Identity) -> None:
    """Refuse what acts with rights that the workload's user does not have; raises Forbidden.

    `asked` is the drive of the request, before the operator's variables were filled in.
    """
    if reach < Reach.DRIVES and drive.driver != "bind":
        raise Forbidden(
            f"the {drive.driver} driver acts with rights that the "
            "workload's user does not have: the operator mounts such a drive, or permits drives",
            task=Task.MOUNT_DRIVE,
        )
    ids = ((asked.uid_map, {workload.uid}), (asked.gid_map, {workload.gid, *workload.groups}))
    if reach < Reach.ALL and any(value and int(value) not in own for value, own in ids):
        raise Forbidden(
            "only the operator maps a drive to users and groups other than the workload's own",
            task=Task.MOUNT_DRIVE,
        )
