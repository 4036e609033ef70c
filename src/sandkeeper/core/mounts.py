"""Mount points of file systems that hold no files: /proc, /sys and their like."""

import os
import re
from collections.abc import Iterator

__all__ = ["proc_mounts", "pseudo_mounts"]

PSEUDO = frozenset(
    [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "resctrl",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    ]
)
_OCTAL = re.compile(rb"\\([0-7]{3})")


def pseudo_mounts() -> list[bytes]:
    """Return where such file systems are mounted (proc_pid_mountinfo(5)); none if unreadable."""
    return [_plain(fields[4]) for kind, fields in _mounted() if kind.decode("latin-1") in PSEUDO]


def proc_mounts() -> list[tuple[int, str, str]]:
    """Return device, root within the file system and mount point of every procfs."""
    found: list[tuple[int, str, str]] = []
    for kind, fields in _mounted():
        if kind == b"proc":
            major, minor = map(int, fields[2].split(b":"))
            root, point = (os.fsdecode(_plain(field)) for field in fields[3:5])
            found.append((os.makedev(major, minor), root, point))
    return found


def _mounted() -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield the type and the fields of every mount; none if they are unreadable."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(b" - ")
        yield after.split(b" ")[0], before.split(b" ")


def _plain(field: bytes) -> bytes:
    return _OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), field)
