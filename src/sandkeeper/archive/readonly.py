"""Making a mounted directory read-only and writable again, and mounting images to look at."""

import ctypes
import errno
import os
import stat

from sandkeeper.linux import libc
from sandkeeper.linux.mounts import mounts

__all__ = ["NotPossible", "is_read_only", "mount_image", "mount_layers", "set_read_only"]

MOUNT_SETATTR = 442
MOUNT_ATTR_RDONLY = 1
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8


class NotPossible(Exception):
    """Why a directory cannot be made read-only, in words."""


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


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
    place = (libc.AT_FDCWD, os.fsencode(root), 0)
    size = ctypes.sizeof(attributes)
    try:
        libc.system_call(MOUNT_SETATTR, *place, ctypes.byref(attributes), size)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise NotPossible("files on it are open for writing") from None
        if error.errno == errno.EPERM:
            raise NotPossible("the server may not change mounts") from None
        raise NotPossible(str(error.strerror).lower()) from None


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
            try:
                return _mount(device, target, kind, options)
            except OSError as error:
                last = error.errno or errno.EIO
                if last not in {errno.EINVAL, errno.ENODEV}:
                    raise
    raise OSError(last, "it holds no file system that this kernel can mount", device)


def mount_layers(layers: list[str], target: str) -> None:
    """Mount the lower layers of an overlay by themselves, read-only; raises OSError."""
    options = "lowerdir=" + ":".join(layer.replace(":", "\\:") for layer in layers)
    _mount("overlay", target, "overlay", os.fsencode(options))


def _mount(source: str, target: str, kind: str, options: bytes | None) -> None:
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    what = (os.fsencode(source), os.fsencode(target), kind.encode(), flags, options)
    libc.call("mount", *what, path=target)
