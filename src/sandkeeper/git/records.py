"""What git has told, as texts of JSON spell it.

`path` is text; where a name is not UTF-8 it has U+FFFD and `pathBase64` has the bytes. Times are
RFC 3339, commits their full names.
"""

from base64 import b64encode

import msgspec
from msgspec import UNSET, UnsetType

__all__ = [
    "Aborted",
    "Added",
    "Branch",
    "BranchChanged",
    "Branches",
    "CheckedOut",
    "Cloned",
    "Commit",
    "Committed",
    "Diff",
    "Fetched",
    "FileChange",
    "FileStatus",
    "Head",
    "History",
    "Person",
    "Pulled",
    "Pushed",
    "PushedRef",
    "RunningOperation",
    "Status",
    "named",
]


class FileStatus(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A file that is not as in the last commit.

    `index` is how it differs there from the last commit, `workTree` how the file differs from the
    index: `modified`, `added`, `deleted`, `renamed`, `copied`, `typechange`; `untracked` and
    `ignored` stand in `workTree`. `conflict` says what both sides did.
    """

    path: str
    path_base64: str | UnsetType = UNSET
    old_path: str | UnsetType = UNSET
    old_path_base64: str | UnsetType = UNSET
    index: str = ""
    work_tree: str = ""
    conflict: str = ""


class Head(msgspec.Struct, rename="camel", kw_only=True):
    """Where a repository stands: `branch` is empty on no branch, `commit` before the first."""

    branch: str = ""
    commit: str = ""


class Status(Head, rename="camel", kw_only=True):
    """What has changed; `state` is what has been begun and not ended (`merge`, `rebase`, …)."""

    path: str
    upstream: str = ""
    ahead: int = 0
    behind: int = 0
    state: str = ""
    clean: bool = True
    conflicts: int = 0
    files: list[FileStatus] = []
    truncated: bool = False


class FileChange(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """A file of a comparison; lines are counted where it is text."""

    path: str
    status: str
    path_base64: str | UnsetType = UNSET
    old_path: str | UnsetType = UNSET
    old_path_base64: str | UnsetType = UNSET
    old_mode: str = ""
    new_mode: str = ""
    binary: bool = False
    additions: int | UnsetType = UNSET
    deletions: int | UnsetType = UNSET


class Diff(msgspec.Struct, rename="camel", kw_only=True):
    """A comparison; `patch` is what fits `maxBytes`, bytes that are not UTF-8 are U+FFFD in it."""

    files: list[FileChange]
    additions: int
    deletions: int
    patch: str
    truncated: bool = False
    patch_truncated: bool = False


class Person(msgspec.Struct):
    """Who did something, and when."""

    name: str
    email: str
    time: str


class Commit(msgspec.Struct, rename="camel"):
    """A commit; `refs` are the branches and tags that stand there."""

    commit: str
    parents: list[str]
    author: Person
    committer: Person
    refs: list[str]
    subject: str
    message: str


class History(msgspec.Struct):
    """Commits, the newest first; `truncated`: what was asked for did not fit."""

    commits: list[Commit]
    truncated: bool = False


class Branch(msgspec.Struct, rename="camel"):
    """A branch; `remote` where it is one of a remote, `gone` where its upstream is not there."""

    name: str
    commit: str
    current: bool
    remote: bool
    upstream: str
    ahead: int
    behind: int
    gone: bool
    time: str
    subject: str


class Branches(msgspec.Struct):
    """All branches; `current` is empty on none."""

    current: str
    branches: list[Branch]
    truncated: bool = False


class Cloned(Head, kw_only=True):
    """A new repository."""

    path: str


class Added(msgspec.Struct, rename="camel"):
    """What stands in the index now and not in the last commit."""

    staged: int


class Committed(Head, kw_only=True):
    """A new commit."""

    subject: str


class BranchChanged(msgspec.Struct, rename="camel"):
    """A branch that was made or deleted, and where it stands (or stood)."""

    name: str
    commit: str


class CheckedOut(Head, kw_only=True):
    """Where the working tree stands now."""


class Fetched(msgspec.Struct):
    """What a remote has, is here; `messages` are git's words."""

    messages: list[str]


class Pulled(Head, kw_only=True):
    """Where the branch stands now; `before` is where it stood."""

    before: str
    updated: bool
    messages: list[str]


class PushedRef(msgspec.Struct, rename="camel", kw_only=True):
    """A ref that was pushed; `status`: `new`, `updated`, `forced`, `deleted`, `unchanged`,
    `rejected`.
    """

    source: str
    target: str
    status: str
    summary: str


class Pushed(msgspec.Struct):
    """What was pushed where."""

    refs: list[PushedRef]
    messages: list[str]


class Aborted(Head, kw_only=True):
    """Where the repository stands again; `state` is what was given up."""

    state: str


class RunningOperation(msgspec.Struct, rename="camel"):
    """Something that git is doing now."""

    id: str
    action: str
    path: str
    started_at: str
    progress: str


def named(name: bytes) -> tuple[str, str | UnsetType]:
    """Return a name as text, and as base64 where that is not all of it."""
    try:
        return name.decode(), UNSET
    except UnicodeDecodeError:
        return name.decode("utf-8", "replace"), b64encode(name).decode()
