"""Wire structs of files; field names are the wire's."""

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "Directory",
    "File",
    "FileRequest",
    "Subdirectory",
    "Success",
    "TreeRequest",
]


class File(Struct):
    """A file in a listing, or with `content` in a read."""

    path: str
    name: str
    permissions: str
    size: int
    lastModified: str
    owner: str
    group: str
    content: str | UnsetType = UNSET


class Subdirectory(Struct):
    """A directory in a listing."""

    path: str
    name: str


class Directory(Struct):
    """A directory; `recursive` is there only when it is true."""

    path: str
    name: str
    files: list[File]
    subdirectories: list[Subdirectory]
    recursive: bool | UnsetType = UNSET


class FileRequest(Struct):
    """PUT /filesystem/{path} as JSON."""

    content: str = ""
    isDirectory: bool = False
    permissions: str = ""


class TreeRequest(Struct):
    """PUT /filesystem/tree/{path}."""

    files: dict[str, str] = {}


class Success(Struct):
    """What a change answers."""

    path: str
    message: str
