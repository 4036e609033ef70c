"""Arguments and results of the file tools."""

from typing import Annotated

import msgspec
from msgspec import Meta

from sandkeeper.api.mcp.tool import Arguments
from sandkeeper.api.schemas.files import Directory

PATH = Annotated[str, Meta(description="Absolute, or below the working directory")]


class PathArgument(Arguments):
    """Which file or directory."""

    path: PATH


class WriteArguments(Arguments):
    """What to write."""

    path: PATH
    content: Annotated[str, Meta(description="The whole content of the file")] = ""
    permissions: Annotated[
        str, Meta(description="Octal, for a new file or directory; 0644 by default")
    ] = ""
    is_directory: Annotated[bool, Meta(description="Make a directory instead")] = False


class EditArguments(Arguments):
    """What to replace."""

    path: PATH
    old_string: Annotated[str, Meta(description="Text as it stands, unique unless replaceAll")]
    new_string: Annotated[str, Meta(description="Text to put in its place")]
    replace_all: Annotated[bool, Meta(description="Wherever it occurs, not once")] = False


class DeleteArguments(Arguments):
    """What to delete."""

    path: PATH
    is_directory: (
        Annotated[bool, Meta(description="Detected if left out; false refuses a directory")] | None
    ) = None
    recursive: Annotated[bool, Meta(description="With all that is in the directory")] = False


class OneEdit(Arguments):
    """One of several edits."""

    old_string: Annotated[str, Meta(description="What is there, to the letter")]
    new_string: Annotated[str, Meta(description="What takes its place")]
    replace_all: Annotated[bool, Meta(description="Wherever it occurs, not once")] = False


class EditsArguments(Arguments):
    """Several edits of one file."""

    path: PATH
    edits: Annotated[
        list[OneEdit], Meta(description="Applied in order; if one fails none is", min_length=1)
    ]
    etag: Annotated[
        str, Meta(description="Refuse unless the file has this etag (of fsStat or an edit)")
    ] = ""


class WorkingDirectory(msgspec.Struct):
    """Where relative paths begin."""

    path: str


class Listed(msgspec.Struct):
    """One level of a directory."""

    directory: Directory


class FileRead(msgspec.Struct, rename="camel"):
    """A file with its content; bytes that are not UTF-8 come as U+FFFD."""

    path: str
    name: str
    permissions: str
    size: int
    last_modified: str
    owner: str
    group: str
    content: str


class Done(msgspec.Struct):
    """What was changed."""

    path: str
    message: str


class Replaced(msgspec.Struct, rename="camel"):
    """How many places were changed."""

    path: str
    occurrences_replaced: int


class ReplacedState(msgspec.Struct, rename="camel"):
    """How many places were changed, and the new state's etag."""

    path: str
    occurrences_replaced: int
    etag: str


class PathState(msgspec.Struct, rename="camel"):
    """What is at a path; links are not followed, `target` says where one leads."""

    path: str
    type: str
    permissions: str
    size: int
    last_modified: str
    owner: str
    group: str
    etag: str
    target: str
