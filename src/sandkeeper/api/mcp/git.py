"""Git tools: the same as over HTTP, for agents."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from sandkeeper.api.edge.rights import USER
from sandkeeper.api.mcp.tool import Arguments, Tool
from sandkeeper.errors import Unprocessable
from sandkeeper.git import fields, records
from sandkeeper.git.progress import Progress
from sandkeeper.git.service import Git, Work
from sandkeeper.log.access import Access, Caller

__all__ = ["GitTools", "tools"]

R = TypeVar("R", bound=msgspec.Struct)


class StatusArguments(fields.StatusFields, Arguments, kw_only=True):
    """What has changed."""


class DiffArguments(fields.DiffFields, Arguments, kw_only=True):
    """A comparison."""


class LogArguments(fields.HistoryFields, Arguments, kw_only=True):
    """The history."""


class PlaceArguments(fields.PlaceFields, Arguments, kw_only=True):
    """A repository."""


class AddArguments(fields.AddFields, Arguments, kw_only=True):
    """What goes into the index."""


class CommitArguments(fields.CommitFields, Arguments, kw_only=True):
    """A commit."""


class BranchArguments(fields.BranchFields, Arguments, kw_only=True):
    """A branch."""

    name: Annotated[str, Meta(description="The branch")]


class CheckoutArguments(fields.CheckoutFields, Arguments, kw_only=True):
    """What the working tree shall be."""


class CloneArguments(fields.CloneFields, Arguments, kw_only=True):
    """A clone."""

    url: Annotated[str, Meta(description="Address without user or password in it")]


class FetchArguments(fields.FetchFields, Arguments, kw_only=True):
    """What a remote has."""


class PullArguments(fields.PullFields, Arguments, kw_only=True):
    """A fetch and a merge."""


class PushArguments(fields.PushFields, Arguments, kw_only=True):
    """What a remote shall have."""


class GitTools:
    """The tools over `git.service`; none of them waits longer than a gateway does."""

    def __init__(self, *, git: Git, access: Access, mcp_wait: float) -> None:
        self._git = git
        self._access = access
        self._wait = mcp_wait

    async def status(self, wanted: StatusArguments, _who: Caller) -> records.Status:
        """Tell what has changed."""
        return await self._done(wanted, self._git.status)

    async def diff(self, wanted: DiffArguments, _who: Caller) -> records.Diff:
        """Compare."""
        return await self._done(wanted, self._git.diff)

    async def history(self, wanted: LogArguments, _who: Caller) -> records.History:
        """Tell commits."""
        return await self._done(wanted, self._git.history)

    async def branches(self, wanted: PlaceArguments, _who: Caller) -> records.Branches:
        """Tell branches."""
        return await self._done(wanted, self._git.branches)

    async def add(self, wanted: AddArguments, who: Caller) -> records.Added:
        """Put files into the index."""
        return await self._done(wanted, self._git.add, "git_add", who)

    async def commit(self, wanted: CommitArguments, who: Caller) -> records.Committed:
        """Make a commit."""
        return await self._done(wanted, self._git.commit, "git_commit", who)

    async def branch(self, wanted: BranchArguments, who: Caller) -> records.BranchChanged:
        """Make a branch."""
        return await self._done(wanted, self._git.branch, "git_branch", who)

    async def remove_branch(self, wanted: BranchArguments, who: Caller) -> records.BranchChanged:
        """Delete a branch."""
        return await self._done(wanted, self._git.remove_branch, "git_branch_delete", who)

    async def checkout(self, wanted: CheckoutArguments, who: Caller) -> records.CheckedOut:
        """Change the working tree."""
        return await self._done(wanted, self._git.checkout, "git_checkout", who)

    async def abort(self, wanted: PlaceArguments, who: Caller) -> records.Aborted:
        """Give up what was begun."""
        return await self._done(wanted, self._git.abort, "git_abort", who)

    async def clone(self, wanted: CloneArguments, who: Caller) -> records.Cloned:
        """Make a repository of another."""
        return await self._done(
            wanted, lambda one: self._git.clone(one, None), "git_clone", who, url=wanted.url
        )

    async def fetch(self, wanted: FetchArguments, who: Caller) -> records.Fetched:
        """Bring what a remote has."""
        return await self._done(wanted, lambda one: self._git.fetch(one, None), "git_fetch", who)

    async def pull(self, wanted: PullArguments, who: Caller) -> records.Pulled:
        """Fetch and merge."""
        return await self._done(wanted, lambda one: self._git.pull(one, None), "git_pull", who)

    async def push(self, wanted: PushArguments, who: Caller) -> records.Pushed:
        """Send."""
        return await self._done(wanted, lambda one: self._git.push(one, None), "git_push", who)

    async def _done(
        self,
        wanted: Any,
        prepare: Callable[[Any], Work[R]],
        action: str = "",
        who: Caller | None = None,
        **extras: str,
    ) -> R:
        if wanted.timeout is None or wanted.timeout > self._wait:
            wanted = msgspec.structs.replace(wanted, timeout=float(self._wait))
        work = prepare(wanted)
        if who is not None:
            self._access.audit(action, who, path=wanted.path, **extras)
        try:
            return await work(Progress())
        except Unprocessable as error:
            if error.code != "TIMED_OUT":
                raise
            hint = "; what takes longer can be run by processExecute, or with depth"
            raise Unprocessable(f"{error}{hint}", code=error.code) from None


def tools(made: GitTools) -> list[Tool]:
    """Return the git tools."""
    rows: list[tuple[str, str, type[Arguments], type[msgspec.Struct], Any]] = [
        (
            "gitStatus",
            "Tell the branch of a git repository and the files that differ from its last commit.",
            StatusArguments,
            records.Status,
            made.status,
        ),
        (
            "gitDiff",
            "Compare the working tree with the index, the index with the last commit (staged), or "
            "commits (base, target): files, counts of lines, and the beginning of the patch.",
            DiffArguments,
            records.Diff,
            made.diff,
        ),
        ("gitLog", "Tell commits, the newest first.", LogArguments, records.History, made.history),
        (
            "gitBranches",
            "Tell the branches of a repository and those known of its remotes.",
            PlaceArguments,
            records.Branches,
            made.branches,
        ),
        (
            "gitAdd",
            "Put files as they are now into the index (git add); give paths, or all.",
            AddArguments,
            records.Added,
            made.add,
        ),
        (
            "gitCommit",
            "Commit the index, or with all everything that git knows and that has changed.",
            CommitArguments,
            records.Committed,
            made.commit,
        ),
        (
            "gitCreateBranch",
            "Make a branch, and with checkout work on it.",
            BranchArguments,
            records.BranchChanged,
            made.branch,
        ),
        (
            "gitDeleteBranch",
            "Delete a branch; with force also one that is merged nowhere.",
            BranchArguments,
            records.BranchChanged,
            made.remove_branch,
        ),
        (
            "gitCheckout",
            "Switch to a branch, tag or commit (ref), make a branch (create), or take single "
            "files (paths) from ref or from the index.",
            CheckoutArguments,
            records.CheckedOut,
            made.checkout,
        ),
        (
            "gitAbort",
            "Give up a merge, rebase, cherry-pick or revert that stands still for conflicts.",
            PlaceArguments,
            records.Aborted,
            made.abort,
        ),
        (
            "gitClone",
            "Clone a repository. A password or token is never part of the url: credentials names "
            "the variable of the sandbox that holds it.",
            CloneArguments,
            records.Cloned,
            made.clone,
        ),
        ("gitFetch", "Bring what a remote has.", FetchArguments, records.Fetched, made.fetch),
        (
            "gitPull",
            "Fetch and merge (or rebase). Conflicts are an error that names the files.",
            PullArguments,
            records.Pulled,
            made.pull,
        ),
        ("gitPush", "Send commits to a remote.", PushArguments, records.Pushed, made.push),
    ]
    return [
        Tool(name, words, arguments, result, call, "", need=USER)
        for name, words, arguments, result, call in rows
    ]
