"""Mount points of file systems that hold no files: /proc, /sys and their like."""

import os

from sandkeeper.linux.mounts import mounts

__all__ = ["PSEUDO", "proc_mounts", "pseudo_mounts"]

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


def pseudo_mounts() -> list[bytes]:
    """Return where such file systems are mounted; none if that cannot be read."""
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
