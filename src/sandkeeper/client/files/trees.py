"""What is in a folder here and in one of the sandbox, so that the two can be compared."""

import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from sandkeeper.client.connection import Server
from sandkeeper.client.failures import ClientError, Refused
from sandkeeper.client.files.ignoring import Ignored
from sandkeeper.client.files.paths import file_route

__all__ = ["FILE", "FOLDER", "LINK", "Item", "LocalTree", "comparable", "remote_items"]

FILE, FOLDER, LINK = "file", "directory", "symlink"
SAME_SECONDS = 0.001
"""Times go over the line as decimal fractions."""
BITS = 0o777
NOTHING_THERE = 404


class Item(NamedTuple):
    """An entry of a tree; `time` in seconds since the epoch, `link` what a link says."""

    kind: str
    size: int = 0
    time: float = 0.0
    mode: int = 0
    link: str = ""

    def is_same(self, other: "Item") -> bool:
        """Say whether another has the same content, as far as size and time tell."""
        if self.kind != other.kind or self.kind == FOLDER:
            return self.kind == other.kind
        if self.kind == LINK:
            return self.link == other.link
        return self.size == other.size and abs(self.time - other.time) < SAME_SECONDS

    def is_alike(self, other: "Item") -> bool:
        """Say whether its permissions are the same as well; those of links nobody uses."""
        return self.kind == LINK or self.mode == other.mode


def comparable(text: str) -> str:
    """Write a name as the API does, which has U+FFFD for bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text


class LocalTree:
    """A folder here, looked at again and again; `tell` hears of what cannot be read."""

    def __init__(self, root: Path, *, everything: bool, tell: Callable[[str], None]) -> None:
        self.root = root
        self._everything = everything
        self._tell = tell
        self.ignored = Ignored(root, off=everything)
        self.failed = False

    def look(self) -> dict[str, Item]:
        """Return what is in it by relative paths, folders before what they hold."""
        self.ignored = Ignored(self.root, off=self._everything)
        self.failed = False
        found: dict[str, Item] = {}
        waiting = [""]
        while waiting:
            waiting += self._folder(waiting.pop(), found)
        return found

    def _folder(self, folder: str, found: dict[str, Item]) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                listed = sorted(entries, key=lambda one: one.name)
        except FileNotFoundError:
            if not folder:
                raise ClientError(f"{self.root}: nothing is there") from None
            return []
        except OSError as error:
            self._fail(folder, error)
            return []
        self.ignored.enter(folder, {one.name for one in listed})
        deeper: list[str] = []
        for one in listed:
            path = f"{folder}/{one.name}" if folder else one.name
            is_folder = one.is_dir(follow_symlinks=False)
            if self.ignored(path, folder=is_folder):
                continue
            item = self._item(one, path)
            if item is not None:
                found[path] = item
                if is_folder:
                    deeper.append(path)
        return deeper[::-1]

    def _item(self, entry: "os.DirEntry[str]", path: str) -> Item | None:
        try:
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                return Item(LINK, link=os.readlink(entry.path))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._fail(path, error)
            return None
        if stat.S_ISDIR(info.st_mode):
            return Item(FOLDER, mode=info.st_mode & BITS)
        if stat.S_ISREG(info.st_mode):
            return Item(FILE, info.st_size, info.st_mtime_ns / 1e9, info.st_mode & BITS)
        return None  # sockets, FIFOs and devices belong to the machine they are on

    def _fail(self, path: str, error: OSError) -> None:
        self.failed = True
        self._tell(f"{path or self.root}: {str(error.strerror).lower()}")


class _Entry(msgspec.Struct):
    path: str
    type: str
    size: int
    permissions: str
    lastModified: str
    link: str = ""


class _Listing(msgspec.Struct):
    entries: list[_Entry]


_decode = msgspec.json.Decoder(_Listing).decode


def remote_items(server: Server, folder: str) -> dict[str, Item]:
    """Return what is in a folder of the sandbox by relative paths; nothing where there is none.

    Raises Refused for what is no folder.
    """
    try:
        raw = server.ask("GET", file_route("/filesystem-entries", folder), query={"depth": 0})
    except Refused as error:
        if error.code != NOTHING_THERE:
            raise
        return {}
    try:
        entries = _decode(raw).entries
    except msgspec.MsgspecError as error:
        raise ClientError(f"the list of {folder} is none: {error}") from None
    if not entries:
        return {}
    head = entries[0].path.rpartition("/")[0] + "/"  # what comes first lies in the folder itself
    return {one.path.removeprefix(head): _item(one) for one in entries}


def _item(entry: _Entry) -> Item:
    if entry.type == LINK:
        return Item(LINK, link=entry.link)
    mode = int(entry.permissions, 8) & BITS
    if entry.type == FOLDER:
        return Item(FOLDER, mode=mode)
    moment = datetime.fromisoformat(entry.lastModified).timestamp()
    return Item(entry.type, entry.size, moment, mode)
