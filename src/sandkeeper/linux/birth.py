"""When a file was created (statx(2)), which Python does not tell."""

import ctypes
import os
from functools import lru_cache
from typing import Any

__all__ = ["birth_time"]

AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_BTIME = -100, 0x100, 0x800


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint32),
        ("before", ctypes.c_uint8 * 76),
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 164),
    )


@lru_cache(maxsize=1)
def _statx() -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def birth_time(path: str) -> int | None:
    """Return it in nanoseconds; None where the file system keeps none or the file is gone."""
    call, result = _statx(), _Statx()
    if call is None:
        return None
    flags = AT_SYMLINK_NOFOLLOW
    if call(AT_FDCWD, os.fsencode(path), flags, STATX_BTIME, ctypes.byref(result)) != 0:
        return None
    if not result.mask & STATX_BTIME:
        return None
    return int(result.seconds) * 10**9 + int(result.nanoseconds)
