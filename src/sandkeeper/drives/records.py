"""What is remembered of mounts over a restart of the server: one small file of our own."""

from pathlib import Path
from typing import Any

import msgspec

from sandkeeper.drives.rules import Drive, Reach
from sandkeeper.linux.paths.statefiles import (
    Damaged,
    decoded,
    make_private_folder,
    read_own,
    write_atomically,
)

__all__ = ["Record", "load_records", "record_of", "save_records"]

FILE = "mounted.json"


class Record(msgspec.Struct):
    """A mount and, for FUSE, the program behind it: its pid and start time in clock ticks.

    `mount_id` is the kernel's, `made` how many folders at the end of the path were made for it,
    `reach` whose word it was (`Reach`); earlier versions wrote none of the three.
    """

    name: str
    mount_path: str
    drive_path: str
    read_only: bool
    uid_map: str
    gid_map: str
    driver: str
    pid: int = 0
    born: int = 0
    mount_id: int = 0
    made: int = 0
    reach: Reach = Reach.ALL

    @property
    def drive(self) -> Drive:
        """The drive that is mounted."""
        return Drive(
            self.name,
            self.mount_path,
            self.drive_path,
            self.read_only,
            self.uid_map,
            self.gid_map,
            self.driver,
        )


def record_of(drive: Drive, **more: Any) -> Record:
    """Make a record; `more` are the fields that are not the drive's."""
    return Record(
        name=drive.name,
        mount_path=drive.mount_path,
        drive_path=drive.drive_path,
        read_only=drive.read_only,
        uid_map=drive.uid_map,
        gid_map=drive.gid_map,
        driver=drive.driver,
        **more,
    )


def load_records(folder: Path) -> list[Record]:
    """Read the file; raises OSError, UntrustedFile or Damaged."""
    data = read_own(folder / FILE)
    records = decoded(data, list[Record]) if data else []
    for record in records:
        named = "\0" not in f"{record.name}{record.mount_path}{record.drive_path}"
        if not (named and 0 <= record.pid < 1 << 31 and 0 <= record.born < 1 << 62):
            raise Damaged("a value of it cannot be true")
    return records


def save_records(folder: Path, records: list[Record]) -> None:
    """Replace the file; raises OSError or UntrustedFile."""
    make_private_folder(folder)
    write_atomically(folder / FILE, msgspec.json.encode(records))
