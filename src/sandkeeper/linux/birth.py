"""When a file was created (statx(2)), which Python does not tell."""

import ctypes
import os

from sandkeeper.linux import libc

__all__ = ["birth_time"]

AT_SYMLINK_NOFOLLOW, STATX_BTIME = 0x100, 0x800


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("before", ctypes.c_uint8 * 76),
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 164),
    )


def birth_time(path: str) -> int | None:
    """Return it in nanoseconds; None where the file system keeps none or the file is gone."""
    result, found = _Statx(), (libc.AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW)
    try:
        libc.call("statx", *found, STATX_BTIME, ctypes.byref(result))
    except OSError:
        return None
    if not result.mask & STATX_BTIME:
        return None
    return int(result.seconds) * 10**9 + int(result.nanoseconds)
