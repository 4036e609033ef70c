"""Functions of the C library and system calls that Python does not have; their errors as OSError.

Two programs have handles of their own, since they are run as files and know nothing of this
package: `linux/children/spawner_main.py` and `upgrade/guard.py`.
"""

import ctypes
import errno
import os
from typing import Any

__all__ = ["AT_FDCWD", "call", "punch_hole", "system_call"]

AT_FDCWD = -100
_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_library = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any, path: str | bytes | None = None) -> int:
    """Call a function that returns an int, a negative one when it fails.

    Raises OSError with what errno says and `path`, ENOSYS where the C library lacks the function.
    """
    function = getattr(_library, name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
    result: int = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def system_call(number: int, *arguments: Any, path: str | bytes | None = None) -> int:
    """Make a system call by its number (syscall(2)); raises as `call`."""
    return call("syscall", number, *arguments, path=path)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Have a range of a file read as NUL and take no room (fallocate(2)); raises OSError."""
    where = ctypes.c_int64(offset), ctypes.c_int64(length)
    call("fallocate64", fd, _KEEP_SIZE | _PUNCH_HOLE, *where)
