"""Mount points of file systems that hold no files: /proc, /sys and their like."""

import re

__all__ = ["pseudo_mounts"]

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
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found: list[bytes] = []
    for line in lines:
        before, _, after = line.partition(b" - ")
        if after.split(b" ")[0].decode("latin-1") in PSEUDO:
            where = before.split(b" ")[4]
            found.append(_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), where))
    return found
