"""Changing a repository here: index, commits, branches, working tree."""

from sandkeeper.errors import BadInput, Conflict
from sandkeeper.files.service import Files
from sandkeeper.git.arguments import branch_name, pathspecs, people, raw_paths, revision
from sandkeeper.git.fields import (
    AddFields,
    BranchFields,
    CheckoutFields,
    CommitFields,
    PlaceFields,
)
from sandkeeper.git.looking import head, state_of, to_root
from sandkeeper.git.operations import Operation
from sandkeeper.git.records import (
    Aborted,
    Added,
    BranchChanged,
    CheckedOut,
    Committed,
    named,
)

__all__ = [
    "abort",
    "add",
    "branch",
    "check_abort",
    "check_add",
    "check_branch",
    "check_checkout",
    "check_commit",
    "checkout",
    "commit",
    "conflicts",
    "remove_branch",
]

MESSAGE_BYTES = 1 << 20
ABORTS = {
    "merge": ("merge", "--abort"),
    "rebase": ("rebase", "--abort"),
    "cherry-pick": ("cherry-pick", "--abort"),
    "revert": ("revert", "--abort"),
    "bisect": ("bisect", "reset"),
}


async def conflicts(operation: Operation) -> list[str]:
    """Return the names of what both sides have changed."""
    answer = await operation.git("diff", "--name-only", "--diff-filter=U", "-z")
    names = dict.fromkeys(name for name in answer.stdout.split(b"\0") if name)
    return [named(name)[0] for name in names]


def check_add(wanted: AddFields) -> None:
    """Raise BadInput unless it says what to add, in one way."""
    given = bool(raw_paths(wanted.paths, wanted.paths_base64))
    if given == wanted.all:
        raise BadInput("either paths or all must say what to add")


async def add(operation: Operation, wanted: AddFields) -> Added:
    """Put files, as they are now, into the index; those that are gone leave it."""
    await to_root(operation)
    if wanted.all:
        await operation.git("add", "--all")
    else:
        names = b"\0".join(raw_paths(wanted.paths, wanted.paths_base64))
        await operation.git(
            "add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=names
        )
    staged = await operation.git("diff", "--cached", "--name-only", "-z", "--no-renames")
    return Added(staged.stdout.count(b"\0"))


def check_commit(wanted: CommitFields) -> None:
    """Raise BadInput for a commit without words or with people who are none."""
    if not wanted.message.strip() and not wanted.amend:
        raise BadInput("message is required")
    if len(wanted.message) > MESSAGE_BYTES:
        raise BadInput(f"message is longer than {MESSAGE_BYTES} characters")
    if "\0" in wanted.message:
        raise BadInput("invalid message: it has a NUL byte")
    if wanted.all and (wanted.paths or wanted.paths_base64):
        raise BadInput("either paths or all: they say different things")
    raw_paths(wanted.paths, wanted.paths_base64)
    people(wanted.author, wanted.committer)


async def commit(operation: Operation, wanted: CommitFields) -> Committed:
    """Make a commit, hooks and all."""
    await to_root(operation)
    words = ["commit", "--no-status"]
    for flag, name in (
        (wanted.all, "--all"),
        (wanted.amend, "--amend"),
        (wanted.allow_empty, "--allow-empty"),
        (wanted.skip_hooks, "--no-verify"),
    ):
        words += [name] if flag else []
    message = wanted.message.encode("utf-8", "surrogateescape")
    words += ["--file=-"] if wanted.message.strip() else ["--no-edit"]
    if paths := pathspecs(wanted.paths, wanted.paths_base64):
        words += ["--only", "--", *paths]
    stdin = message if wanted.message.strip() else None
    await operation.git(*words, stdin=stdin, given=people(wanted.author, wanted.committer))
    where = await head(operation)
    subject = await operation.git("log", "-1", "--format=%s", "--encoding=UTF-8")
    return Committed(branch=where.branch, commit=where.commit, subject=subject.line)


def check_branch(wanted: BranchFields) -> None:
    """Raise BadInput for what cannot be the name of a branch."""
    branch_name(wanted.name)
    if wanted.start_point:
        revision(wanted.start_point, "startPoint")


async def branch(operation: Operation, wanted: BranchFields) -> BranchChanged:
    """Make a branch, and check it out if that is wanted."""
    await to_root(operation)
    start = [wanted.start_point] if wanted.start_point else []
    force = ["--force"] if wanted.force else []
    if wanted.checkout:
        create = "-B" if wanted.force else "-b"
        await operation.git("checkout", "--quiet", create, wanted.name, *start, "--")
    else:
        await operation.git("branch", *force, wanted.name, *start)
    return BranchChanged(wanted.name, await _commit_of(operation, wanted.name))


async def _commit_of(operation: Operation, name: str) -> str:
    ref = f"refs/heads/{name}"
    answer = await operation.git("rev-parse", "--quiet", "--verify", ref, accepts=(0, 1, 128))
    return answer.line if answer.code == 0 else ""


async def remove_branch(operation: Operation, wanted: BranchFields) -> BranchChanged:
    """Delete a branch; one that is merged nowhere needs `force`."""
    await to_root(operation)
    stood = await _commit_of(operation, wanted.name)
    await operation.git("branch", "-D" if wanted.force else "-d", "--", wanted.name)
    return BranchChanged(wanted.name, stood)


def check_checkout(wanted: CheckoutFields) -> None:
    """Raise BadInput unless it says what to check out."""
    paths = raw_paths(wanted.paths, wanted.paths_base64)
    if wanted.create:
        branch_name(wanted.ref, "ref")
        if paths:
            raise BadInput("either create or paths: they say different things")
    elif wanted.ref or not paths:
        revision(wanted.ref, "ref")
    if wanted.start_point:
        revision(wanted.start_point, "startPoint")
        if not wanted.create:
            raise BadInput("startPoint needs create")


async def checkout(operation: Operation, wanted: CheckoutFields) -> CheckedOut:
    """Have the working tree be another branch's or commit's, or some files of it."""
    await to_root(operation)
    words = ["checkout", "--quiet", *(["--force"] if wanted.force else [])]
    if paths := pathspecs(wanted.paths, wanted.paths_base64):
        ref = [wanted.ref] if wanted.ref else []
        await operation.git(*words, *ref, "--", *paths)
    elif wanted.create:
        start = [wanted.start_point] if wanted.start_point else []
        await operation.git(*words, "-b", wanted.ref, *start, "--")
    else:
        await operation.git(*words, wanted.ref, "--")
    where = await head(operation)
    return CheckedOut(branch=where.branch, commit=where.commit)


def check_abort(_wanted: PlaceFields) -> None:
    """Anything can be wanted to be given up."""


async def abort(operation: Operation, _wanted: PlaceFields, files: Files) -> Aborted:
    """Give up a merge, a rebase or their kin; raises Conflict when none has been begun."""
    await to_root(operation)
    state = await state_of(operation, files)
    if not state:
        raise Conflict("git abort: nothing has been begun", code="NOTHING")
    await operation.git(*ABORTS[state])
    where = await head(operation)
    return Aborted(branch=where.branch, commit=where.commit, state=state)
