"""rename(2) that refuses to replace anything: renameat2(2) with RENAME_NOREPLACE."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sandkeeper.linux import libc
from sandkeeper.linux.identity import is_acting
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.resolving import Name, parent

__all__ = ["exclusive_rename"]

RENAME_NOREPLACE = 1


@contextmanager
def _place(path: str) -> Iterator[tuple[int, Name]]:
    """Yield an open folder and the name in it; a user's path is walked as `useros` walks it."""
    if is_acting():
        with parent(path) as found:
            yield found
    else:
        yield libc.AT_FDCWD, path


def exclusive_rename(source: str, target: str) -> None:
    """Rename `source` to `target`; raises FileExistsError if anything is there, else OSError.

    Where the kernel or the file system does not know the flag, a file is linked to its new name,
    which is as exclusive; a directory is renamed after a look.
    """
    with _place(source) as (here, old), _place(target) as (there, new):
        names = (here, os.fsencode(old), there, os.fsencode(new))
        try:
            libc.call("renameat2", *names, RENAME_NOREPLACE, path=target)
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
