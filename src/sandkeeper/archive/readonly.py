"""Making a mounted directory read-only and writable again, and mounting images to look at."""

import ctypes
import errno
import os
import stat
from functools import lru_cache
from typing import Any

from sandkeeper.linux.mounts import mounts

__all__ = ["NotPossible", "is_read_only", "mount_image", "mount_layers", "set_read_only"]

AT_FDCWD = -100
MOUNT_SETATTR = 442
MOUNT_ATTR_RDONLY = 1
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8


class NotPossible(Exception):
    """Why a directory cannot be made read-only, in words."""


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


@lru_cache(maxsize=1)
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def is_read_only(root: str) -> bool:
    """Say whether nothing can be written on the file system of `root`."""
    return bool(os.statvfs(root).f_flag & os.ST_RDONLY)


def set_read_only(root: str, wanted: bool) -> None:
    """Change this mount alone, whatever its other flags (mount_setattr(2)); raises NotPossible."""
    if not any(mount.path == root for mount in mounts()):
        raise NotPossible(f"{root} is no mount of its own")
    attributes = _Attributes()
    if wanted:
        attributes.set = MOUNT_ATTR_RDONLY
    else:
        attributes.clear = MOUNT_ATTR_RDONLY
    size = ctypes.sizeof(attributes)
    done = _libc().syscall(
        MOUNT_SETATTR, AT_FDCWD, os.fsencode(root), 0, ctypes.byref(attributes), size
    )
    if done != 0:
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise NotPossible("files on it are open for writing")
        if number == errno.EPERM:
            raise NotPossible("the server may not change mounts")
        raise NotPossible(os.strerror(number).lower())


def mount_image(device: str, target: str) -> None:
    """Mount a block device read-only, as whatever file system it holds; raises OSError."""
    if not stat.S_ISBLK(os.stat(device).st_mode):
        raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), device)
    with open("/proc/filesystems", encoding="ascii") as file:
        kinds = [line.strip() for line in file if not line.startswith("nodev")]
    last = errno.EINVAL
    for kind in kinds:
        # noload: a journal that was not played back stays so; nothing may change on the device.
        for options in (b"noload", None) if kind in {"ext3", "ext4"} else (None,):
            last = _mount(device, target, kind, options)
            if last == 0:
                return
            if last not in {errno.EINVAL, errno.ENODEV}:
                raise OSError(last, os.strerror(last), device)
    raise OSError(last, "it holds no file system that this kernel can mount", device)


def mount_layers(layers: list[str], target: str) -> None:
    """Mount the lower layers of an overlay by themselves, read-only; raises OSError."""
    options = "lowerdir=" + ":".join(layer.replace(":", "\\:") for layer in layers)
    number = _mount("overlay", target, "overlay", os.fsencode(options))
    if number:
        raise OSError(number, os.strerror(number), target)


def _mount(source: str, target: str, kind: str, options: bytes | None) -> int:
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    done = _libc().mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options)
    return 0 if done == 0 else ctypes.get_errno()
