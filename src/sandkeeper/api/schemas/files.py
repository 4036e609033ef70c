"""Wire structs of files; field names are the wire's."""

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "CompleteRequest",
    "CopyRequest",
    "Directory",
    "File",
    "FileRequest",
    "PartDone",
    "PartName",
    "Subdirectory",
    "Success",
    "TreeRequest",
    "UploadRequest",
    "UploadStarted",
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
    """POST /filesystem-multipart/{id}/complete."""

    parts: list[PartName] = []
