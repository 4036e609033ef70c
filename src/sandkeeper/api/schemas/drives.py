"""Wire structs of drives."""

import msgspec

__all__ = [
    "DriveListResponse",
    "DriveMountInfo",
    "DriveMountRequest",
    "DriveMountResponse",
    "DriveUnmountResponse",
]


class DriveMountRequest(msgspec.Struct, rename="camel"):
    """A drive to mount; `driver` is ours."""

    drive_name: str = ""
    mount_path: str = ""
    drive_path: str = "/"
    read_only: bool = False
    uid_map: str = ""
    gid_map: str = ""
    driver: str = ""


class DriveMountResponse(msgspec.Struct, rename="camel"):
    """What was mounted, with the maps in force."""

    success: bool
    message: str
    drive_name: str
    mount_path: str
    drive_path: str
    read_only: bool
    uid_map: str
    gid_map: str


class DriveUnmountResponse(msgspec.Struct, rename="camel"):
    """What was unmounted."""

    success: bool
    message: str
    mount_path: str


class DriveMountInfo(msgspec.Struct, rename="camel"):
    """A mounted drive; the last three fields are ours."""

    drive_name: str
    mount_path: str
    drive_path: str
    read_only: bool
    uid_map: str
    gid_map: str
    driver: str
    status: str
    restarts: int


class DriveListResponse(msgspec.Struct):
    """All mounted drives."""

    mounts: list[DriveMountInfo]
