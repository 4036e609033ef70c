"""What the machine gives the server: disk and descriptors."""

import os
import resource
from contextlib import suppress
from pathlib import Path

__all__ = ["disk_bytes", "raise_file_limit"]


def disk_bytes(folder: Path) -> int:
    """Return the size of the disk a folder is (or will be) on; 0 when it cannot be told."""
    for place in (folder, *folder.absolute().parents):
        with suppress(OSError):
            facts = os.statvfs(place)
            return facts.f_blocks * facts.f_frsize
    return 0


def raise_file_limit() -> None:
    """Every running process costs some descriptors; children get the old limit back."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
