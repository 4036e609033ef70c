"""rename(2) that refuses to replace anything: renameat2(2) with RENAME_NOREPLACE."""

import errno

from sandkeeper.linux import libc
from sandkeeper.linux.paths import useros as os

__all__ = ["exclusive_rename"]

RENAME_NOREPLACE = 1


def exclusive_rename(source: str, target: str) -> None:
    """Rename `source` to `target`; raises FileExistsError if anything is there, else OSError.

    Where the kernel or the file system does not know the flag, a file is linked to its new name,
    which is as exclusive; a directory is renamed after a look.
    """
    old, new = (libc.AT_FDCWD, os.fsencode(source)), (libc.AT_FDCWD, os.fsencode(target))
    try:
        libc.call("renameat2", *old, *new, RENAME_NOREPLACE, path=target)
        return
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOSYS}:
            raise
    if os.path.isdir(source) and not os.path.islink(source):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        os.rename(source, target)
        return
    os.link(source, target, follow_symlinks=False)
    os.unlink(source)
