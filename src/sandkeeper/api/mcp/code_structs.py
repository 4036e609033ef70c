"""Arguments and results of the code tools."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from sandkeeper.api.mcp.tool import Arguments
from sandkeeper.api.schemas.codegen import RankedFile
from sandkeeper.api.schemas.files import Directory

__all__ = [
    "CodeEditArguments",
    "CodeEdited",
    "CodeListing",
    "CodeOutcome",
    "CodebaseArguments",
    "CodebaseResults",
    "FileRange",
    "FileSearchArguments",
    "GrepArguments",
    "GrepResults",
    "ListArguments",
    "Matches",
    "ParallelArguments",
    "RangeArguments",
    "RankedFiles",
    "Region",
    "RerankArguments",
    "Snippet",
    "TargetFile",
]

PATH = Annotated[str, Meta(description="Absolute, or below the working directory")]


class FileSearchArguments(Arguments):
    """Which file name."""

    query: Annotated[str, Meta(description="Characters that the file's name has in this order")]
    directory: Annotated[str, Meta(description="Below the working directory, which is meant")] = ""


class CodebaseArguments(Arguments):
    """What to look for."""

    query: Annotated[str, Meta(description="What the code is about")]
    target_directories: Annotated[
        list[str], Meta(description="Directories or globs; everything by default")
    ] = field(default_factory=list)


class GrepArguments(Arguments):
    """What to look for."""

    query: Annotated[str, Meta(description="Regular expression in ripgrep's syntax")]
    case_sensitive: Annotated[bool, Meta(description="Tell upper case from lower case")] = False
    include_pattern: Annotated[str, Meta(description="Glob of files to search")] = ""
    exclude_pattern: Annotated[str, Meta(description="Glob of files to leave out")] = ""


class RangeArguments(Arguments):
    """Which lines."""

    target_file: PATH
    start_line_one_indexed: Annotated[int, Meta(description="First line, from 1 on")]
    end_line_one_indexed_inclusive: Annotated[int, Meta(description="Last line, which is included")]


class TargetFile(Arguments):
    """Which file."""

    target_file: PATH


class ListArguments(Arguments):
    """Which directory."""

    relative_workspace_path: PATH


class Region(Arguments):
    """A part of a file."""

    relative_workspace_path: PATH
    start_line: Annotated[int, Meta(description="First line, from 1 on")] | None = None
    end_line: Annotated[int, Meta(description="Last line")] | None = None


class ParallelArguments(Arguments):
    """Which edits."""

    edit_plan: Annotated[str, Meta(description="What is to be changed, in words")]
    edit_regions: Annotated[list[Region], Meta(description="Where it is to be changed")]


class CodeEditArguments(Arguments):
    """Which edit."""

    target_file: PATH
    instructions: Annotated[str, Meta(description="What the edit does, in one sentence")]
    code_edit: Annotated[
        str, Meta(description="The changed lines, others as `// ... existing code ...`")
    ]


class RerankArguments(Arguments):
    """What to rank."""

    path: PATH
    query: Annotated[str, Meta(description="What the code is about")]
    score_threshold: Annotated[float, Meta(description="Files below are left out")] = 0.5
    token_limit: Annotated[
        int, Meta(ge=0, le=1 << 40, description="How many tokens of files at most")
    ] = 30000
    file_pattern: Annotated[str, Meta(description="RE2 pattern for paths or names")] = ""


class Matches(msgspec.Struct):
    """Absolute paths, at most ten."""

    success: bool
    matches: list[str]
    query: str


class Snippet(msgspec.Struct, rename="camel"):
    """A part of a file that answers the query; `startLine` counts from 1."""

    path: str
    score: float
    start_line: int
    content: str


class CodebaseResults(msgspec.Struct):
    """The best files, best first."""

    success: bool
    results: list[Snippet]
    query: str


class GrepResults(msgspec.Struct):
    """ripgrep's JSON lines; `truncated` stands there when there were more than 1 MiB of them."""

    success: bool
    results: str
    truncated: bool | UnsetType = UNSET


class FileRange(msgspec.Struct):
    """The lines, without the last one's newline."""

    success: bool
    content: str
    file: str


class CodeOutcome(msgspec.Struct):
    """How it went."""

    success: bool
    message: str


class CodeListing(msgspec.Struct):
    """One level of a directory."""

    success: bool
    directory: Directory


class CodeEdited(msgspec.Struct, rename="camel"):
    """An edit that was merged and written."""

    success: bool
    message: str
    file_path: str
    changes_applied: str


class RankedFiles(msgspec.Struct):
    """Relevant files, best first."""

    success: bool
    message: str
    files: list[RankedFile]
