"""Wire structs of files; field names are the wire's."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

__all__ = [
    "AttributesRequest",
    "CompleteRequest",
    "CopyRequest",
    "Directory",
    "EditDone",
    "EditRequest",
    "Entry",
    "File",
    "FileRequest",
    "LinkMade",
    "LinkRequest",
    "PartDone",
    "PartName",
    "Stat",
    "Subdirectory",
    "Success",
    "TreeRequest",
    "UploadRequest",
    "UploadStarted",
    "Usage",
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

    files: dict[str, str | None] = {}


class Success(Struct):
    """What a change answers."""

    path: str
    message: str


class CopyRequest(Struct):
    """POST /filesystem-copy and /filesystem-move."""

    source: str = ""
    destination: str = ""
    noOverwrite: bool = False


class UploadRequest(Struct):
    """POST /filesystem-multipart/initiate/{path}."""

    permissions: str = ""


class UploadStarted(Struct):
    """What initiate answers."""

    uploadId: str
    path: str


class PartDone(Struct):
    """What a part's upload answers."""

    partNumber: int
    etag: str
    size: int


class PartName(Struct):
    """A part as the completing request lists it."""

    partNumber: int = 0
    etag: str = ""


class CompleteRequest(Struct):
    """POST /filesystem-multipart/{id}/complete; `size` for what was sent as one content."""

    parts: list[PartName] = []
    size: int | None = None


class Stat(Struct):
    """GET /filesystem-stat/{path}; times are RFC 3339, `target` is where a link leads."""

    path: str
    name: str
    type: str
    size: int
    permissions: str
    owner: str
    group: str
    uid: int
    gid: int
    inode: int
    links: int
    lastModified: str
    lastChanged: str
    lastAccessed: str
    etag: str
    target: str | UnsetType = UNSET
    attributes: dict[str, Any] | UnsetType = UNSET


class Entry(Struct):
    """An entry of GET /filesystem-entries/{path}, itself and not what a link leads to.

    `target` is the end of a link, all links resolved, `targetType` what is there, and `link` what
    the link says itself.
    `encodedName` is the name percent-encoded, where it is not UTF-8 and `name` does not hold it.
    """

    path: str
    name: str
    type: str
    size: int
    permissions: str
    owner: str
    group: str
    lastModified: str
    target: str | UnsetType = UNSET
    targetType: str | UnsetType = UNSET
    link: str | UnsetType = UNSET
    attributes: dict[str, Any] | UnsetType = UNSET
    encodedName: str | UnsetType = UNSET


class LinkRequest(Struct):
    """POST /filesystem-links: to `read` or `write` one path for so many seconds."""

    path: str = ""
    operation: str = "read"
    seconds: Annotated[int, Meta(ge=1, le=7 * 86400)] = 3600


class LinkMade(Struct):
    """What it answers; `url` is relative to the server's address."""

    path: str
    operation: str
    url: str
    expiresAt: str


class AttributesRequest(Struct):
    """PUT /filesystem-attributes/{path}; null takes an extended attribute away."""

    attributes: dict[str, str | None] = {}

    permissions: str = ""
    owner: str = ""
    group: str = ""
    recursive: bool = False


class EditRequest(Struct):
    """POST /filesystem-edit/{path}."""

    oldString: str = ""
    newString: str = ""
    replaceAll: bool = False
    expectedOccurrences: int | None = None


class EditDone(Struct):
    """What an edit answers."""

    path: str
    message: str
    occurrencesReplaced: int


class Usage(Struct):
    """GET /filesystem-usage/{path}; all sizes in bytes."""

    path: str
    disk: int
    apparent: int
    files: int
    directories: int
    unreadable: int
    filesystemSize: int
    filesystemFree: int
