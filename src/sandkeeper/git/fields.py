"""What is wanted of git, as texts of JSON spell it: bodies of requests, arguments of tools.

`path` is the repository or a folder in it, read as every path of the file API; `timeout` is in
seconds and bounds the whole, hooks and all. Names that are not UTF-8 come as base64 of their bytes.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, field

__all__ = [
    "AddFields",
    "BranchFields",
    "CheckoutFields",
    "CloneFields",
    "CommitFields",
    "CredentialFields",
    "DiffFields",
    "FetchFields",
    "HistoryFields",
    "PersonFields",
    "PlaceFields",
    "PullFields",
    "PushFields",
    "StatusFields",
]

Paths = Annotated[list[str], Meta(description="Files or folders, relative to `path`; no patterns")]
RawPaths = Annotated[list[str], Meta(description="The same as base64 of their bytes")]
Ref = Annotated[str, Meta(description="A branch, tag or commit")]


class CredentialFields(msgspec.Struct, rename="camel"):
    """Who logs in at the remote: variables of the sandbox that hold name and password."""

    username: Annotated[str, Meta(description="User name; `git` by default")] = ""
    username_variable: Annotated[str, Meta(description="Variable that holds the user name")] = ""
    password_variable: Annotated[
        str, Meta(description="Variable that holds the password or token")
    ] = ""


class PersonFields(msgspec.Struct, rename="camel"):
    """An author or committer."""

    name: Annotated[str, Meta(description="Name")] = ""
    email: Annotated[str, Meta(description="Address")] = ""


Credentials = Annotated[CredentialFields | None, Meta(description="Who logs in at the remote")]
Author = Annotated[PersonFields | None, Meta(description="Whose work it is, if not git's user's")]
Committer = Annotated[PersonFields | None, Meta(description="Who commits it, if not git's user")]


class PlaceFields(msgspec.Struct, rename="camel", kw_only=True):
    """A repository."""

    path: Annotated[str, Meta(description="The repository, or a folder in it")] = ""
    timeout: Annotated[float, Meta(description="Seconds; git is ended then, hooks too")] | None = (
        None
    )


class CloneFields(PlaceFields, rename="camel", kw_only=True):
    """A clone; `path` is the new folder, by default the url's last part."""

    url: Annotated[str, Meta(description="Address without user or password in it")] = ""
    branch: Annotated[str, Meta(description="Branch or tag to check out")] = ""
    commit: Annotated[str, Meta(description="Commit to check out, on no branch")] = ""
    depth: Annotated[int, Meta(description="So many commits of the history; 0 is all")] = 0
    single_branch: Annotated[bool, Meta(description="Fetch that branch alone")] = False
    bare: Annotated[bool, Meta(description="Without a working tree")] = False
    recurse_submodules: Annotated[bool, Meta(description="With its submodules")] = False
    credentials: Credentials = None


class StatusFields(PlaceFields, rename="camel", kw_only=True):
    """What has changed."""

    untracked: Annotated[bool, Meta(description="Files that git does not know, too")] = True
    ignored: Annotated[bool, Meta(description="Files that git ignores, too")] = False
    limit: Annotated[int, Meta(description="So many files at most (10000)")] = 10_000


class DiffFields(PlaceFields, rename="camel", kw_only=True):
    """A comparison: the working tree with the index; `staged`: the index with the last commit."""

    staged: Annotated[bool, Meta(description="Compare the index with the last commit")] = False
    base: Annotated[str, Meta(description="Commit to compare with instead")] = ""
    target: Annotated[str, Meta(description="Commit that is compared with `base`")] = ""
    paths: Paths = field(default_factory=list)
    paths_base64: RawPaths = field(default_factory=list)
    context: Annotated[int, Meta(description="Lines around a change")] = 3
    limit: Annotated[int, Meta(description="So many files at most (10000)")] = 10_000
    max_bytes: Annotated[int, Meta(description="So much of the patch at most (256 KiB)")] = (
        256 << 10
    )


class AddFields(PlaceFields, rename="camel", kw_only=True):
    """What goes into the index."""

    paths: Paths = field(default_factory=list)
    paths_base64: RawPaths = field(default_factory=list)
    all: Annotated[bool, Meta(description="Everything that has changed, below the root")] = False


class CommitFields(PlaceFields, rename="camel", kw_only=True):
    """A commit of the index, or of `paths` alone."""

    message: Annotated[str, Meta(description="The message; its first line is the subject")] = ""
    author: Author = None
    committer: Committer = None
    all: Annotated[bool, Meta(description="All that git knows and that has changed")] = False
    amend: Annotated[bool, Meta(description="Replace the last commit")] = False
    allow_empty: Annotated[bool, Meta(description="Also when nothing has changed")] = False
    skip_hooks: Annotated[bool, Meta(description="Without pre-commit and commit-msg")] = False
    paths: Paths = field(default_factory=list)
    paths_base64: RawPaths = field(default_factory=list)


class HistoryFields(PlaceFields, rename="camel", kw_only=True):
    """The history, the newest first."""

    ref: Ref = ""
    limit: Annotated[int, Meta(description="So many commits (50, at most 1000)")] = 50
    skip: Annotated[int, Meta(description="Leave out so many of the newest")] = 0
    since: Annotated[str, Meta(description="Not older than this, as git reads dates")] = ""
    until: Annotated[str, Meta(description="Not younger than this")] = ""
    author: Annotated[str, Meta(description="A text in the author's name or address")] = ""
    grep: Annotated[str, Meta(description="A text in the message")] = ""
    paths: Paths = field(default_factory=list)
    paths_base64: RawPaths = field(default_factory=list)


class BranchFields(PlaceFields, rename="camel", kw_only=True):
    """A branch to make or to delete."""

    name: Annotated[str, Meta(description="The branch")] = ""
    start_point: Ref = ""
    checkout: Annotated[bool, Meta(description="Check it out as well")] = False
    force: Annotated[bool, Meta(description="Move or delete it whatever is lost")] = False


class CheckoutFields(PlaceFields, rename="camel", kw_only=True):
    """What the working tree shall be; with `paths` only these are changed."""

    ref: Ref = ""
    create: Annotated[bool, Meta(description="Make the branch `ref`")] = False
    start_point: Ref = ""
    force: Annotated[bool, Meta(description="Throw local changes away")] = False
    paths: Paths = field(default_factory=list)
    paths_base64: RawPaths = field(default_factory=list)


class _Remote(PlaceFields, rename="camel", kw_only=True):
    remote: Annotated[str, Meta(description="Name or address; the branch's own by default")] = ""
    branch: Annotated[str, Meta(description="A branch there; the present one's by default")] = ""
    credentials: Credentials = None


class FetchFields(_Remote, rename="camel", kw_only=True):
    """What a remote has."""

    prune: Annotated[bool, Meta(description="Forget branches that are gone there")] = False
    tags: Annotated[bool, Meta(description="All tags, too")] = False


class PullFields(_Remote, rename="camel", kw_only=True):
    """A fetch, and a merge of it (or a rebase on it)."""

    rebase: Annotated[bool, Meta(description="Rebase instead of a merge")] = False
    ff_only: Annotated[bool, Meta(description="Refuse what needs a merge")] = False
    author: Author = None


class PushFields(_Remote, rename="camel", kw_only=True):
    """What a remote shall have."""

    set_upstream: Annotated[bool, Meta(description="Have the branch follow that one")] = False
    force: Annotated[bool, Meta(description="Overwrite, unless others have pushed meanwhile")] = (
        False
    )
    tags: Annotated[bool, Meta(description="All tags, too")] = False
    delete: Annotated[bool, Meta(description="Delete `branch` at the remote")] = False
