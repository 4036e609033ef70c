"""How a drive is mounted: a registry of drivers, each a few lines that make a plan.

A plan is either a program that serves the mount until it ends, or a folder to bind. A further
driver is one function and its name in `DRIVERS`.
"""

import ipaddress
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from sandkeeper.drives.rules import Drive
from sandkeeper.errors import BadInput, Internal, Task
from sandkeeper.linux.identity import Identity
from sandkeeper.numerals import natural
from sandkeeper.settings import DriveSettings, truthy

__all__ = ["DRIVERS", "Plan", "driver_named", "effective", "first_nameserver"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What makes a mount: `argv` of a program that serves it, or `below` and `folder` to bind."""

    argv: tuple[str, ...] = ()
    below: Path = Path()
    folder: tuple[str, ...] = ()


Driver = Callable[[Drive, Mapping[str, str], DriveSettings], Plan]


def first_nameserver(text: str) -> str:
    """Return the first valid nameserver of a resolv.conf(5), a zone kept, or an empty string."""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ipaddress.ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        return words[1]
    return ""


def _nameserver() -> str:
    try:
        server = first_nameserver(Path("/etc/resolv.conf").read_text("utf-8", "replace"))
    except OSError as error:
        raise Internal(f"/etc/resolv.conf: {error.strerror}", task=Task.MOUNT_DRIVE) from None
    if not server:
        raise Internal("/etc/resolv.conf names no nameserver", task=Task.MOUNT_DRIVE)
    return server


def _blfs(drive: Drive, env: Mapping[str, str], settings: DriveSettings) -> Plan:
    """The contract's program and command line."""
    workspace = env.get("BL_WORKSPACE_ID", "")
    if not workspace:
        raise Internal("BL_WORKSPACE_ID is not set", task=Task.MOUNT_DRIVE)
    if not os.path.exists(settings.blfs_binary):
        raise Internal(f"{settings.blfs_binary} is not installed", task=Task.MOUNT_DRIVE)
    server = env.get("BL_DRIVE_FILER", "").strip() or _nameserver()
    domain = "dev" if env.get("BL_ENV") == "dev" else "ai"
    folder = f"/buckets/drv-{drive.name}-{workspace.lower()}{drive.drive_path}"
    writeback = "false" if truthy(env.get("BLFS_DISABLE_WRITEBACK_CACHE", "")) else "true"
    coherence = "true" if truthy(env.get("BLFS_CROSS_MOUNT_CACHE_COHERENCE", "")) else "false"
    argv = [
        settings.blfs_binary,
        "mount",
        f"-filer={server}:49200.49201",
        "-asyncDio=true",
        "-cacheSymlink=true",
        f"-auth.tokenFile=/var/run/secrets/blaxel.{domain}/identity/token",
        f"-filer.path={folder}",
        f"-dir={drive.mount_path}",
        "-volumeServerAccess=filerProxy",
        "-dirAutoCreate=true",
        f"-writebackCache={writeback}",
        f"-crossMountCacheCoherence={coherence}",
    ]
    for flag, wanted in (
        ("-readDirectIO=true", truthy(env.get("BLFS_READ_DIRECT_IO", ""))),
        ("-evictPageCacheOnClose=true", truthy(env.get("BLFS_EVICT_PAGE_CACHE_ON_CLOSE", ""))),
        ("-readOnly=true", drive.read_only),
        (f"-map.uid={drive.uid_map}:0", bool(drive.uid_map)),
        (f"-map.gid={drive.gid_map}:0", bool(drive.gid_map)),
    ):
        if wanted:
            argv.append(flag)
    return Plan(tuple(argv))


def _weed(drive: Drive, env: Mapping[str, str], settings: DriveSettings) -> Plan:
    """SeaweedFS: `SANDKEEPER_WEED_FILER` is the filer's host:port; drives live below /buckets."""
    filer = env.get("SANDKEEPER_WEED_FILER", "")
    if not filer:
        raise Internal("SANDKEEPER_WEED_FILER is not set", task=Task.MOUNT_DRIVE)
    argv = [
        _program("weed", env),
        "mount",
        f"-filer={filer}",
        f"-filer.path=/buckets/{drive.name}{drive.drive_path.rstrip('/')}",
        f"-dir={drive.mount_path}",
        "-dirAutoCreate=true",
    ]
    if drive.read_only:
        argv.append("-readOnly=true")
    if drive.uid_map:
        argv.append(f"-map.uid={drive.uid_map}:0")
    if drive.gid_map:
        argv.append(f"-map.gid={drive.gid_map}:0")
    return Plan(tuple(argv))


def _rclone(drive: Drive, env: Mapping[str, str], settings: DriveSettings) -> Plan:
    """rclone: drives are folders of `SANDKEEPER_RCLONE_REMOTE` (`s3:`, `:local:/srv`, …).

    `SANDKEEPER_RCLONE_ARGS` are further arguments of the operator.
    """
    remote = env.get("SANDKEEPER_RCLONE_REMOTE", "")
    if not remote:
        raise Internal("SANDKEEPER_RCLONE_REMOTE is not set", task=Task.MOUNT_DRIVE)
    joint = "" if remote.endswith((":", "/")) else "/"
    argv = [
        _program("rclone", env),
        "mount",
        f"{remote}{joint}{drive.name}{drive.drive_path.rstrip('/')}",
        drive.mount_path,
        "--allow-other",
        "--vfs-cache-mode=writes",
        "--vfs-write-back=0s",  # a closed file is on its way: an unmount must not overtake it
        "--dir-cache-time=10s",
        f"--cache-dir={settings.folder / 'rclone-cache'}",
    ]
    if drive.read_only:
        argv.append("--read-only")
    if drive.uid_map:
        argv.append(f"--uid={drive.uid_map}")
    if drive.gid_map:
        argv.append(f"--gid={drive.gid_map}")
    return Plan((*argv, *shlex.split(env.get("SANDKEEPER_RCLONE_ARGS", ""))))


def _bind(drive: Drive, env: Mapping[str, str], settings: DriveSettings) -> Plan:
    """Needs nothing: drives are folders below `SANDKEEPER_DRIVE_ROOT`."""
    parts = tuple(part for part in drive.drive_path.split("/") if part)
    return Plan(below=settings.root, folder=(drive.name, *parts))


def _program(name: str, env: Mapping[str, str]) -> str:
    found = shutil.which(name, path=env.get("PATH") or os.defpath)
    if found is None:
        raise Internal(f"{name} is not installed", task=Task.MOUNT_DRIVE)
    return found


DRIVERS: dict[str, Driver] = {"blfs": _blfs, "weed": _weed, "rclone": _rclone, "bind": _bind}


def driver_named(name: str) -> Driver:
    """Return a driver; raises BadInput for one that does not exist."""
    if name not in DRIVERS:
        raise BadInput(f"Unknown drive driver {name!r}; there are {', '.join(DRIVERS)}")
    return DRIVERS[name]


def effective(
    drive: Drive, env: Mapping[str, str], settings: DriveSettings, user: Identity | None
) -> Drive:
    """Fill in the driver and the maps: of the request, else the environment, else the user."""
    driver = drive.driver or env.get("SANDKEEPER_DRIVE_DRIVER", "").strip().lower() or "blfs"
    if driver == "bind":  # the kernel shows a bound folder with the owners it has
        if drive.uid_map or drive.gid_map:
            raise BadInput(
                "the bind driver cannot map users or groups", task=Task.ACCEPT_DRIVE, about="map"
            )
        return replace(drive, driver=driver)
    return replace(
        drive,
        driver=driver,
        uid_map=drive.uid_map or _map(env, "BLFS_UID_MAP", user.uid if user else None),
        gid_map=drive.gid_map or _map(env, "BLFS_GID_MAP", user.gid if user else None),
    )


def _map(env: Mapping[str, str], variable: str, own: int | None) -> str:
    value = env.get(variable, "") or ("" if own is None else str(own))
    if value and natural(value) is None:
        raise Internal(f"{variable} is not a number", task=Task.MOUNT_DRIVE)
    return value
